"""The verb generate: flags become options, options become a video, the video becomes a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.enhance import ENHANCE_HELP, Enhance
from cogvideox.cli.enhance import MODEL_HELP as ENHANCER_HELP
from cogvideox.cli.plan import LIMIT_HELP, MEMORY_HELP, best_device, fit, follow, read_limit, room
from cogvideox.cli.terminal import progress, result, result_json, say, verb
from cogvideox.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from cogvideox.generate.options import GenerateOptions
    from cogvideox.memory import MemoryPlan, Policy
    from cogvideox.model import CogVideoX
    from cogvideox.video import Video


ATTENTION_HELP = (
    "kernel: fastest (the fastest right one here), torch, torch-cudnn, flash-3, sage (8-bit), ..."
)
REUSE_HELP = "error, such as 0.1, at which a step reuses an earlier one (see calibrate); default: 0, never"
MODULATION_HELP = "tables (once for all steps) or layers (at every step)"


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


@verb
def generate(
    words: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="what the video shows")] = None,
    prompt: Annotated[str | None, typer.Option(help="the same as a flag")] = None,
    model: Annotated[
        str | None, typer.Option(help="a folder, a hub id or a preset; without it the shipped one")
    ] = None,
    image: Annotated[str | None, typer.Option(help="image to start from")] = None,
    video: Annotated[str | None, typer.Option(help="video to change, or with --continue to carry on")] = None,
    strength: Annotated[
        float | None, typer.Option(help="how much of --video is remade, above 0 to 1")
    ] = None,
    carry_on: Annotated[bool, typer.Option("--continue", help="make what follows after --video")] = False,
    lora: Annotated[list[str] | None, typer.Option(help="adapter, PATH or PATH:SCALE; repeatable")] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="alpha of adapters whose file does not say it")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="number of frames")] = None,
    seconds: Annotated[float | None, typer.Option(help="length in seconds, instead of --frames")] = None,
    height: Annotated[int | None, typer.Option(help="pixels")] = None,
    width: Annotated[int | None, typer.Option(help="pixels")] = None,
    fps: Annotated[float | None, typer.Option(help="frames per second of the result")] = None,
    steps: Annotated[int | None, typer.Option(help="denoising steps; more is slower and finer")] = None,
    guidance: Annotated[float | None, typer.Option(help="how strongly to follow the prompt")] = None,
    guidance_schedule: Annotated[str | None, typer.Option(help="constant, wave or cosine")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm or dpm-ode")] = None,
    previous: Annotated[str | None, typer.Option(help="where a step ends: released or corrected")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="what to lead away from")] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same video")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; default: cuda, else mps, else cpu")
    ] = None,
    memory: Annotated[str, typer.Option(help=MEMORY_HELP)] = "auto",
    memory_limit: Annotated[str | None, typer.Option(help=LIMIT_HELP)] = None,
    attention: Annotated[str | None, typer.Option(help=ATTENTION_HELP)] = None,
    modulation: Annotated[str | None, typer.Option(help=MODULATION_HELP)] = None,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="compile the transformer's blocks: faster steps, a slow first one"),
    ] = False,
    reuse: Annotated[float | None, typer.Option(help=REUSE_HELP)] = None,
    reuse_table: Annotated[
        str | None, typer.Option(help="calibration of --reuse; default: the one beside the model")
    ] = None,
    enhance: Annotated[str | None, typer.Option(help=ENHANCE_HELP)] = None,
    enhance_model: Annotated[str | None, typer.Option(help=ENHANCER_HELP)] = None,
    batch: Annotated[str | None, typer.Option(help="file with one prompt or JSON object per line")] = None,
    out: Annotated[str | None, typer.Option(help="file (.mp4, .gif, .png), with --batch a folder")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="also write an enlarged GIF and a contact sheet")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that exist")] = False,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="write neither prompt nor settings, only that it is AI-made")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON lines")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check all, print the settings, make nothing")
    ] = False,
) -> None:
    """Make a video from text, an image or a video."""
    if words is not None and prompt is not None:
        raise ConfigError("prompt: given twice, as an argument and as --prompt; give one")
    settings = {
        "prompt": prompt if prompt is not None else words,
        "negative_prompt": negative_prompt,
        "image": image,
        "video": video,
        "video_use": "continue" if carry_on else None,
        "strength": strength,
        "frames": frames,
        "seconds": seconds,
        "height": height,
        "width": width,
        "fps": fps,
        "steps": steps,
        "guidance": guidance,
        "guidance_schedule": guidance_schedule,
        "sampler": sampler,
        "previous": previous,
        "seed": seed,
        "attention": attention,
        "modulation": modulation,
        "compile": compile or None,
        "reuse": reuse,
        "reuse_table": reuse_table,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    job = Job(
        model=model or "",
        adapters=tuple(_adapter(text) for text in lora or []),
        alpha=lora_alpha,
        dtype=checks.choose("dtype", dtype, checks.DTYPES) if dtype else None,
        device=device,
        overwrite=overwrite,
        metadata=not no_metadata,
        preview=preview,
        as_json=as_json,
        debug=debug,
        memory=memory,
        memory_limit=memory_limit,
        enhance=Enhance(enhance, enhance_model),
    )
    job.enhance.check()
    _check_pairs(settings, words, batch, lora_alpha if not lora else None)
    if batch is not None:
        from cogvideox.cli.batch import run_batch

        run_batch(Path(batch), Path(out or "out"), settings, job, dry_run)
    else:
        _make_one(settings, job, out, dry_run)


def _check_pairs(
    settings: dict[str, Any], words: str | None, batch: str | None, lost_alpha: float | None
) -> None:
    """Refuse a flag that has no effect without another one."""
    alone = batch is None and "video" not in settings
    if batch is not None and words is not None:
        raise ConfigError(f"prompt {words!r}: the prompts of --batch stand in its file; give one of them")
    if "strength" in settings and alone:
        raise ConfigError(f"strength {settings['strength']:g}: has no effect without --video; give one")
    if lost_alpha is not None:
        raise ConfigError(f"lora-alpha {lost_alpha:g}: has no effect without --lora; give one")
    if "video_use" in settings and alone:
        raise ConfigError("--continue: there is no video to carry on from; give one with --video")
    if batch is None and not settings.keys() & {"prompt", "image", "video"}:
        raise ConfigError(
            'prompt: missing; for example: cogvideox generate "a red circle moves to the right"'
        )


def _make_one(settings: dict[str, Any], job: Job, out: str | None, dry_run: bool) -> None:
    """One request: everything is checked and planned before a weight is read."""
    path = target(out, job)
    options = resolve(settings)
    name = job.model_for(settings)
    ready = checks.check_request(name, options)
    options, enhanced = job.enhance.apply(options, ready.folder, dry_run)
    options = checks.with_calibration(options, ready.folder)
    fitted = fit_memory(job, options, ready, limit_of(job))
    options = follow(options, fitted.choice)
    if dry_run:
        show_plan(options, ready, path, job, fitted)
        return
    plan = ready.plan
    what = f"{plan.frames.asked} frames of {plan.height}x{plan.width} in {options.steps} steps"
    from cogvideox.parallel.mesh import is_first, launched

    with launched(job.place) as place:
        if is_first():
            say(f"{name}: {what}")
        job = replace(job, device=place)
        loaded = load(job, ready.folder, policy=fitted.choice.policy)
        share(loaded, options, fitted)
        made = make(loaded, options, ready, options.prompt[:40] or path.name, fitted, enhanced)
        if is_first():
            save(made, path, job, options)


def share(model: CogVideoX, options: GenerateOptions, fitted: MemoryPlan) -> None:
    """Let the processes that torchrun started make one video together. Raises ConfigError."""
    from cogvideox.parallel.mesh import is_launched

    if not is_launched():
        return
    from torch.distributed import get_world_size

    from cogvideox.diffusion import is_guided
    from cogvideox.generate.sampling import guidance_of
    from cogvideox.parallel.inference import Spread, spread

    policy = fitted.choice.policy
    if policy.residence != "resident" or policy.storage != "stored":
        raise ConfigError(
            f"memory {policy.name}: several processes hold the weights in parts already; pass --memory resident"
        )
    guided = is_guided(guidance_of(options)) and options.guidance_pair != "sequence"
    spread(model.transformer, Spread.over(get_world_size(), guided), model.device.type)


def resolve(settings: dict[str, Any]) -> GenerateOptions:
    """Flags to options, everything checked that needs no model. Raises InputError and ConfigError."""
    from cogvideox.generate.options import GenerateOptions
    from cogvideox.text import check_prompt

    for name in ("prompt", "negative_prompt"):
        if name in settings:
            check_prompt(settings[name], name.replace("_", " "))
    if "sampler" in settings:
        settings = {**settings, "sampler": checks.choose("sampler", settings["sampler"], checks.SAMPLERS)}
    return GenerateOptions.parse(settings)


def target(out: str | None, job: Job) -> Path:
    """The file to write, checked; without --out the first free of video.mp4, video-2.mp4, ..."""
    from cogvideox.video import check_output, previews_of, sidecar_of

    if out is None:
        number, path = 1, Path("video.mp4")
        while any(each.exists() for each in (path, sidecar_of(path), *previews_of(path))):
            number += 1
            path = Path(f"video-{number}.mp4")
    else:
        path = Path(out)
    check_output(path, job.overwrite, sidecar=job.metadata)
    for preview in previews_of(path) if job.preview else ():
        check_output(preview, job.overwrite)
    return path


def fit_memory(job: Job, options: GenerateOptions, ready: checks.Ready, limit: int | None) -> MemoryPlan:
    """What the run will do with its memory. Raises InputError when it cannot fit, ConfigError."""
    return fit(ready, options, job.dtype, job.place, job.memory, limit)


def limit_of(job: Job) -> int | None:
    """The bytes a run may take: as asked, or what the device has free. Raises ConfigError."""
    return read_limit(job.memory_limit) or room(job.place)


def load(
    job: Job, folder: Path, weights: dict[str, str] | None = None, policy: Policy | None = None
) -> CogVideoX:
    """The model with its adapters, on the device, or where a policy keeps it.

    ``weights``: their digests, where they are known already. Raises CheckpointError, ConfigError.
    """
    import torch

    from cogvideox.checkpoints import load_lora, load_model
    from cogvideox.checkpoints.adapter import read_adapter
    from cogvideox.manifest import digests_of
    from cogvideox.memory import Policy, lower, move_in

    device = job.place
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"device {device!r}: not available here ({reason}); try --device cpu") from None
    for path, _ in job.adapters:
        read_adapter(path, job.alpha)  # a file that is no adapter is an error before weights are loaded
    policy = policy or Policy()
    at_home = policy.residence != "resident" or policy.storage != "stored"
    loaded = load_model(folder, dtype=job.dtype, device="cpu" if at_home else device, compute_device=device)
    for path, scale in job.adapters:
        load_lora(loaded, path, scale, alpha=job.alpha)
    if job.metadata:
        loaded.weights = weights or digests_of(folder)
    lower(loaded, policy.storage, device)
    return move_in(loaded, device, policy.residence) if at_home else loaded


def make(
    model: CogVideoX,
    options: GenerateOptions,
    ready: checks.Ready,
    title: str,
    fitted: MemoryPlan,
    enhanced: dict[str, Any] | None = None,
) -> Video:
    """One video, with a bar on the terminal; its manifest says what was done about memory and the prompt."""
    from cogvideox.generate.run import generate as run

    with progress(title) as show:
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
    video.save(path, replace, job.metadata)
    previews = video.save_previews(path, replace, job.metadata) if job.preview else []
    if job.as_json:
        seconds = video.manifest.get("run", {}).get("seconds")
        size = {"frames": len(video), "height": video.height, "width": video.width, "fps": video.fps}
        names = {".gif": "preview", ".png": "sheet"}
        paths = {"path": str(path), **{names[each.suffix]: str(each) for each in previews}}
        result_json({**paths, **size, "seed": options.seed, "seconds": seconds})
        return
    say(f"{video} with seed {options.seed}")
    for each in (path, *previews):
        result(str(each))


def show_plan(
    options: GenerateOptions, ready: checks.Ready, path: Path, job: Job, fitted: MemoryPlan
) -> None:
    """The resolved settings, as YAML or JSON on stdout."""
    plan: dict[str, Any] = {"height": ready.plan.height, "width": ready.plan.width, "fps": ready.plan.fps}
    plan |= {"frames": ready.plan.frames.asked, "why": ready.plan.frames.why}
    plan |= {"memory": fitted.why}
    if job.as_json:
        settings = options.model_dump(mode="json")
        result_json({"model": str(ready.folder), "out": str(path), "options": settings, "plan": plan})
        return
    lines = [f"model: {ready.folder}", f"out: {path}", *(f"plan_{k}: {v}" for k, v in plan.items())]
    result("\n".join(f"# {line}" for line in lines) + "\n" + options.to_yaml().rstrip())


def _adapter(text: str) -> tuple[str, float]:
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
