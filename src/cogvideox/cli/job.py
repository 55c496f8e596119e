"""What every verb that generates goes through: check, fit into memory, load, make, save."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli import checks
from cogvideox.cli.enhance import Enhance
from cogvideox.cli.plan import fit, of_ready, read_limit, room
from cogvideox.cli.terminal import result, result_json
from cogvideox.device import best_device, check_device
from cogvideox.errors import CheckpointError, ConfigError, OutputError
from cogvideox.generation.options import SAMPLER_NAMES
from cogvideox.progress import duration, progress, say

if TYPE_CHECKING:
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.preflight import Forecast
    from cogvideox.memory import MemoryPlan, Policy
    from cogvideox.model import CogVideoX
    from cogvideox.video import Video


@dataclass(frozen=True)
class Job:
    """What the flags say besides the options: which model on what, where to, how much to tell."""

    model: str  # '': the shipped one that fits
    adapters: tuple[tuple[str, float], ...] = ()
    alpha: float | None = None
    dtype: str | None = None
    device: str | None = None
    overwrite: bool = False
    metadata: bool = True
    preview: bool = False
    as_json: bool = False
    debug: bool = False
    memory: str = "auto"
    memory_limit: str | None = None
    enhance: Enhance = Enhance()

    @property
    def place(self) -> str:
        """The device: as asked, or the best there is."""
        return self.device or best_device()

    def model_for(self, settings: dict[str, Any]) -> str:
        """The model asked for, or the shipped one that reads what is given."""
        return self.model or (checks.SHIPPED_I2V if settings.get("image") else checks.SHIPPED)


def check_shareable(options: GenerateOptions, fitted: MemoryPlan) -> None:
    """Raises ConfigError for what one process can do alone only, when torchrun started several."""
    from cogvideox.parallel.mesh import is_launched

    if not is_launched():
        return
    policy = fitted.choice.policy
    if policy.residence != "resident" or policy.storage != "stored":
        raise ConfigError(
            f"memory {policy.name}: several processes hold the weights in parts already; pass --memory resident"
        )
    if options.compile:
        raise ConfigError("compile: not for several processes; leave out --compile, or start one process")


def share(model: CogVideoX, options: GenerateOptions) -> None:
    """Let the processes that torchrun started make one video together."""
    from cogvideox.parallel.mesh import is_launched

    if not is_launched():
        return
    from torch.distributed import get_world_size

    from cogvideox.diffusion import is_guided
    from cogvideox.generation.sampling import guidance_of
    from cogvideox.parallel.inference import Spread, spread

    guided = is_guided(guidance_of(options)) and options.guidance_pair != "sequence"
    spread(model.transformer, Spread.over(get_world_size(), guided), model.device.type)


def resolve(settings: dict[str, Any]) -> GenerateOptions:
    """Flags to options, everything checked that needs no model. Raises InputError and ConfigError."""
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.text import check_prompt

    for name in ("prompt", "negative_prompt"):
        if name in settings:
            check_prompt(settings[name], name.replace("_", " "))
    if "sampler" in settings:
        settings = {**settings, "sampler": checks.choose("sampler", settings["sampler"], SAMPLER_NAMES)}
    return GenerateOptions.parse(settings)


def read_lora(text: str) -> tuple[str, float]:
    """``PATH`` or ``PATH:SCALE``. Raises ConfigError, CheckpointError."""
    path, colon, number = text.rpartition(":")
    scale = 1.0
    if not colon or "\0" in text or Path(text).exists():
        path = text
    else:
        try:
            scale = float(number)
        except ValueError:
            raise ConfigError(f"lora {text!r}: {number!r} is not a scale; write PATH:0.8") from None
    if not -100 < scale < 100:
        raise ConfigError(f"lora {text!r}: scale {scale:g} must lie between -100 and 100; write PATH:0.8")
    if "\0" in path or not Path(path).exists():
        raise CheckpointError(f"lora {path}: no such file or folder; check the path")
    return path, scale


def check_free(file: Path) -> None:
    """Raises OutputError when something stands there that this program did not make."""
    from cogvideox.video import is_ours

    if os.path.lexists(file) and not is_ours(file):
        raise OutputError(
            f"{file}: exists already and was not made here; choose another name, or move it away"
        )


def check_beside(path: Path, job: Job) -> None:
    """The record and the previews of a video take the place of our own files only, whatever --overwrite says of the
    video. Raises OutputError.
    """
    from cogvideox.video import previews_of, sidecar_of

    for file in (
        *([sidecar_of(path)] if job.metadata else []),
        *(previews_of(path) if job.preview else []),
    ):
        check_free(file)


def target(out: str | None, job: Job) -> Path:
    """The file to write, checked; without --out the first free of video.mp4, video-2.mp4, ..."""
    from cogvideox.video import check_output, previews_of, sidecar_of

    if out is None:
        number, path = 1, Path("video.mp4")
        while any(os.path.lexists(each) for each in (path, sidecar_of(path), *previews_of(path))):
            number += 1
            path = Path(f"video-{number}.mp4")
    else:
        path = Path(out)
    check_output(path, job.overwrite, sidecar=job.metadata)
    for preview in previews_of(path) if job.preview else ():
        check_output(preview, job.overwrite)
    check_beside(path, job)
    return path


def fit_memory(job: Job, options: GenerateOptions, ready: checks.Ready, limit: int | None) -> MemoryPlan:
    """What the run will do with its memory. Raises InputError when it cannot fit, ConfigError."""
    with progress("planning the memory") as show:
        show("planning the memory", 0, 1)  # large pictures are counted tile by tile
        return fit(ready, options, job.dtype, job.place, job.memory, limit)


def limit_of(job: Job, anyway: bool = False) -> int | None:
    """The bytes a run may take: as asked, and unless ``anyway`` no more than are free. Raises ConfigError."""
    asked, free = read_limit(job.memory_limit), room(job.place)
    if asked is None or free is None or asked <= free or anyway:
        return asked or free
    warnings.warn(
        f"memory-limit {job.memory_limit}: only {free / 1e9:.3g} GB are free, and the run is planned for these",
        stacklevel=2,
    )
    return free


def foresee(job: Job, options: GenerateOptions, ready: checks.Ready) -> Forecast | None:
    """How long a run will take here; None where that is not known: for a device that is elsewhere, and for several
    processes. Raises InputError for more than a day, unless the options say ``anyway``.
    """
    from cogvideox.generation.preflight import forecast, refuse_hours, steps_of
    from cogvideox.parallel.mesh import is_launched

    if is_launched():
        return None
    try:
        check_device(job.place)
    except ConfigError:
        return None
    request = of_ready(ready, options, job.dtype, job.place)
    found = forecast(request, steps_of(options, ready.given))
    refuse_hours(size_of(options, ready), found, options.anyway, "--anyway")
    return found


def size_of(options: GenerateOptions, ready: checks.Ready) -> str:
    """What is made, for messages."""
    plan = ready.plan
    return f"{plan.frames.asked} frames of {plan.height}x{plan.width} in {options.steps} steps"


def cost_of(fitted: MemoryPlan, found: Forecast | None) -> str:
    """Estimated memory and time, for people."""
    choice = fitted.choice
    memory = f"{'at most ' if choice.bound else ''}{choice.peak / 1e9:.2g} GB" if choice else "?"
    limit = f" of {fitted.limit / 1e9:.3g} GB" if fitted.limit else ""
    took = f"about {duration(found.seconds)} ({found.basis}), " if found else ""
    return f"estimated: {took}memory {memory}{limit}"


def load(
    job: Job, folder: Path, weights: dict[str, str] | None = None, policy: Policy | None = None
) -> CogVideoX:
    """The model with its adapters, on the device, or where a policy keeps it.

    ``weights``: their digests, where they are known already. Raises CheckpointError, ConfigError.
    """
    from cogvideox.checkpoints import load_lora, load_model
    from cogvideox.files.digest import digests_of
    from cogvideox.memory import Policy, lower, move_in
    from cogvideox.parallel.mesh import is_first

    device = job.place
    check_device(device)
    checks.check_adapters(job.adapters, job.alpha, folder)
    policy = policy or Policy()
    at_home = policy.residence != "resident" or policy.storage != "stored"
    name, began = job.model or folder.name, time.monotonic()
    with progress(f"loading {name}") as show:
        show(f"loading {name}", 0, 1)
        loaded = load_model(
            folder, dtype=job.dtype, device="cpu" if at_home else device, compute_device=device
        )
        for path, scale in job.adapters:
            load_lora(loaded, path, scale, alpha=job.alpha)
        if job.metadata and weights is None:
            show("digests of the weights", 0, 1)
            weights = digests_of(folder)
        if job.metadata:
            loaded.weights = weights or {}
        show(f"moving to {device}", 0, 1)
        lower(loaded, policy.storage, device)
        if at_home:
            loaded = move_in(loaded, device, policy.residence)
    if is_first():
        say(f"{name}: loaded in {duration(time.monotonic() - began)}, on {device}")
    return loaded


def make(
    model: CogVideoX,
    options: GenerateOptions,
    ready: checks.Ready,
    title: str,
    fitted: MemoryPlan,
    enhanced: dict[str, Any] | None = None,
    expected: Forecast | None = None,
) -> Video:
    """One video, with a bar on the terminal; its manifest says what was done about memory and the prompt."""
    from cogvideox.generation.pipeline import generate as run

    with progress(title, expected.stages if expected else None) as show, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "estimated time:.*", UserWarning)  # it was told
        made = run(
            model,
            options,
            lambda step: show(step.stage, step.done, step.total),
            image=ready.given.image,
            video=ready.given.video,
        )
    facts = {**made.manifest["run"], "memory": fitted.record()}
    facts |= {"enhance": enhanced} if enhanced else {}
    return replace(made, manifest={**made.manifest, "run": facts})


def save(video: Video, path: Path, job: Job, options: GenerateOptions, replace: bool = False) -> None:
    """Write the video, its record and preview, and say where; ``replace`` even what exists."""
    replace = replace or job.overwrite
    began = time.monotonic()
    with progress(f"writing {path.name}") as show:
        show(f"writing {path.name}", 0, 1)
        video.save(path, replace, job.metadata)
        previews = video.save_previews(path, replace, job.metadata) if job.preview else []
    written = time.monotonic() - began
    seed, run = video.manifest.get("seed", options.seed), video.manifest.get("run", {})
    if job.as_json:
        size = {"frames": len(video), "height": video.height, "width": video.width, "fps": video.fps}
        names = {".gif": "preview", ".png": "sheet"}
        paths = {"path": str(path), **{names[each.suffix]: str(each) for each in previews}}
        result_json({**paths, **size, "seed": seed, "seconds": run.get("seconds")})
        return
    stages = {**run.get("stages", {}), "write": written}
    times = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())
    drawn = f" (drawn; --seed {seed} repeats it)" if options.seed is None else ""
    say(f"{video} with seed {seed}{drawn}; {times}")
    for each in (path, *previews):
        result(str(each))


def show_plan(
    options: GenerateOptions,
    ready: checks.Ready,
    path: Path,
    job: Job,
    fitted: MemoryPlan,
    found: Forecast | None,
) -> None:
    """The resolved settings, as YAML or JSON on stdout."""
    plan: dict[str, Any] = {"height": ready.plan.height, "width": ready.plan.width, "fps": ready.plan.fps}
    plan |= {"frames": ready.plan.frames.asked, "why": ready.plan.frames.why}
    plan |= {"memory": fitted.why, "seconds": round(found.seconds, 1) if found else None}
    if job.as_json:
        settings = options.model_dump(mode="json")
        result_json({"model": str(ready.folder), "out": str(path), "options": settings, "plan": plan})
        return
    lines = [f"model: {ready.folder}", f"out: {path}", *(f"plan_{k}: {v}" for k, v in plan.items())]
    result("\n".join(f"# {line}" for line in lines) + "\n" + options.to_yaml().rstrip())
