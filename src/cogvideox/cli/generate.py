"""The verb generate: flags become options, options become a video, the video becomes a file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import (
    ENHANCE,
    ENHANCE_MODEL,
    OUTPUT,
    Debug,
    Device,
    Dtype,
    Engine,
    Json,
    Kind,
    Memory,
    MemoryLimit,
    Overwrite,
    Products,
    Storage,
    TextCache,
    TextDevice,
    TextEncoderFile,
    TransformerFile,
    VaeFile,
    Workers,
    flag,
    with_flags,
)
from cogvideox.cli.terminal import PARTIAL, result, result_json, verb
from cogvideox.errors import CogVideoXError, ConfigError
from cogvideox.generation.options import OPTION_GROUPS, GenerateOptions
from cogvideox.progress import TERMINAL, duration, say

if TYPE_CHECKING:
    from cogvideox.engines import JobEngine
    from cogvideox.generation.job import Job, Prepared
    from cogvideox.generation.preflight import Forecast
    from cogvideox.generation.video_files import SavedVideo
    from cogvideox.memory import MemoryPlan
    from cogvideox.model import CogVideoX

INPUTS, MODEL = "Prompt and inputs", "Model"
LORA = (
    "adapter: a file, a folder or owner/name:file, with its strength: NAME:0.8 or NAME:0.8@0-0.6; repeatable"
)
SECOND_PASS = (
    "transformer of a removal's second pass (VOID), which follows in the same run; its file, folder or hub id"
)
WATCH = "steps between two previews of the video so far, in NAME.watch.gif; 0: none"
PRESET = "named settings for few steps: tdm-2b or blade-5b (see: cogvideox settings tdm-2b)"
COUNT = (
    "that many videos, with the seed and those after it: name-1.mp4, ... and name-sheet.png, a contact sheet"
)
DRY_RUN = "check all, print the settings, make nothing"
NO_METADATA = "write neither prompt nor settings, only that it is AI-made"


@verb
@with_flags(GenerateOptions, OPTION_GROUPS)
def generate(
    options: dict[str, Any],
    words: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="what the video shows")] = None,
    carry_on: Annotated[bool, flag("the same as --video-use continue", INPUTS, "--continue")] = False,
    enhance: Annotated[str | None, flag(ENHANCE, INPUTS)] = None,
    enhance_model: Annotated[str | None, flag(ENHANCE_MODEL, INPUTS)] = None,
    batch: Annotated[str | None, flag("file: one prompt or JSON object a line, or .csv", INPUTS)] = None,
    engine: Engine = "local",
    workers: Workers = None,
    model: Annotated[str | None, flag("folder, hub id or preset; default: the shipped one", MODEL)] = None,
    kind: Kind = None,
    transformer: TransformerFile = None,
    vae: VaeFile = None,
    second_pass: Annotated[str | None, flag(SECOND_PASS, MODEL)] = None,
    text_encoder: TextEncoderFile = None,
    lora: Annotated[list[str] | None, flag(LORA, MODEL)] = None,
    lora_alpha: Annotated[float | None, flag("alpha of adapters whose file does not say it", MODEL)] = None,
    tiny_vae: Annotated[
        str | None, flag("tiny autoencoder (taecvx) for previews and --vae-coding tiny", MODEL)
    ] = None,
    preset: Annotated[str | None, flag(PRESET, "Sampling")] = None,
    dtype: Dtype = None,
    device: Device = None,
    memory: Memory = "auto",
    memory_limit: MemoryLimit = None,
    storage: Storage = "auto",
    products: Products = "full",
    text_device: TextDevice = None,
    text_cache: TextCache = "off",
    out: Annotated[str | None, flag("file (.mp4, .gif, .png), with --batch a folder", OUTPUT)] = None,
    count: Annotated[int, flag(COUNT, OUTPUT)] = 1,
    preview: Annotated[bool, flag("also an enlarged GIF and a contact sheet", OUTPUT, "--preview")] = False,
    watch: Annotated[int, flag(WATCH, OUTPUT, min=0)] = 0,
    overwrite: Overwrite = False,
    no_metadata: Annotated[bool, flag(NO_METADATA, OUTPUT, "--no-metadata")] = False,
    as_json: Json = False,
    debug: Debug = False,
    dry_run: Annotated[bool, flag(DRY_RUN, OUTPUT, "--dry-run")] = False,
) -> None:
    """Make a video from text, an image or a video."""
    options = _with_shorthands(options, words, carry_on)
    _check_pairs(options, words, batch, lora_alpha if not lora else None)
    from cogvideox.checkpoints.kinds import check_kind
    from cogvideox.engines import HERE, JobEngine
    from cogvideox.generation.job import Job
    from cogvideox.generation.prompt_enhance import Enhance
    from cogvideox.generation.recommended import read_adapter_flag

    job = Job(
        model=model or "", kind=check_kind(kind) if kind else None,
        adapters=tuple(read_adapter_flag(text, not dry_run) for text in lora or []), alpha=lora_alpha,
        dtype=dtype, device=device,
        memory=memory, memory_limit=memory_limit, storage=storage, products=products,
        enhance=Enhance(enhance, enhance_model), overwrite=overwrite, metadata=not no_metadata, preview=preview,
        tiny_vae=tiny_vae, watch=watch,
        text_device=text_device, text_cache=text_cache, text_encoder=text_encoder,
        transformer=transformer, vae=vae, second_pass=second_pass,
        preset=preset or "",
    )  # fmt: skip
    job.enhance.check()
    where = JobEngine(engine, workers)
    if where != HERE and batch is None:
        raise ConfigError(
            f"engine {engine}: spreads the lines of a file; give one with --batch, or leave it out"
        )
    if second_pass is not None and (count != 1 or batch is not None):
        raise ConfigError("second-pass: for one video; leave out --count and --batch")
    if count != 1:
        if batch is not None:
            raise ConfigError(
                f"count {count}: the lines of --batch have seeds of their own; give one of them"
            )
        _make_several(options, job, out, count, dry_run, as_json)
    elif batch is not None:
        _make_batch(Path(batch), Path(out or "out"), options, job, where, dry_run, as_json, debug)
    else:
        _make_one(options, job, out, dry_run, as_json)


def _with_shorthands(options: dict[str, Any], words: str | None, carry_on: bool) -> dict[str, Any]:
    """The options with what the argument and --continue stand for."""
    if words is not None and "prompt" in options:
        raise ConfigError("prompt: given twice, as an argument and as --prompt; give one")
    if carry_on and options.get("video_use", "continue") != "continue":
        raise ConfigError(f"--continue: --video-use {options['video_use']} asks for something else; give one")
    prompt = {"prompt": words} if words is not None else {}
    return prompt | options | ({"video_use": "continue"} if carry_on else {})


def _check_pairs(
    settings: dict[str, Any], words: str | None, batch: str | None, lost_alpha: float | None
) -> None:
    """Refuse a flag that has no effect without another one. Raises ConfigError."""
    alone = batch is None and "video" not in settings
    if batch is not None and words is not None:
        raise ConfigError(f"prompt {words!r}: the prompts of --batch stand in its file; give one of them")
    if "strength" in settings and alone:
        raise ConfigError(f"strength {settings['strength']:g}: has no effect without --video; give one")
    if lost_alpha is not None:
        raise ConfigError(f"lora-alpha {lost_alpha:g}: has no effect without --lora; give one")
    if settings.get("video_use") == "continue" and alone:
        raise ConfigError("--continue: there is no video to carry on from; give one with --video")
    if "join" in settings and "video_use" not in settings and batch is None:
        raise ConfigError("--join: has no effect without --continue; give both")
    if batch is None and not settings.keys() & {
        "prompt",
        "image",
        "video",
        "last_image",
        "keyframe",
        "control",
    }:
        raise ConfigError(
            'prompt: missing; for example: cogvideox generate "a red circle moves to the right"'
        )


def _make_one(settings: dict[str, Any], job: Job, out: str | None, dry_run: bool, as_json: bool) -> None:
    """One request: everything is checked and planned before a weight is read."""
    from cogvideox.generation.job import make
    from cogvideox.generation.video_files import SavedVideo, save, target
    from cogvideox.parallel.mesh import is_main_process

    path = target(out, job)
    prepared = _prepared(settings, job, dry_run)
    if job.second_pass is not None:
        _make_both(prepared, path, dry_run, as_json)
        return
    if dry_run:
        _show_plan(prepared, path, as_json)
        return
    with _loaded(prepared) as model:
        generation = make(model, prepared, prepared.plan.options.prompt[:40] or path.name, TERMINAL, path)
        if is_main_process():
            files = save(generation.video, path, job, reporter=TERMINAL)
            _tell_saved(SavedVideo.of(generation, files), prepared.plan.options.seed is None, as_json)


def _make_both(prepared: Prepared, path: Path, dry_run: bool, as_json: bool) -> None:
    """Both passes of a removal, the second planned before the first is made."""
    from cogvideox.generation.two_passes import first_pass_file, make_both, second_of
    from cogvideox.generation.video_files import SavedVideo, save, target

    target(str(first_pass_file(path)), prepared.job)
    second = second_of(prepared, download=not dry_run, reporter=TERMINAL)
    if dry_run:
        _show_plan(prepared, path, as_json)
        return
    generation = make_both(prepared, second, path, _loaded, TERMINAL)
    files = save(generation.video, path, prepared.job, reporter=TERMINAL)
    _tell_saved(SavedVideo.of(generation, files), prepared.plan.options.seed is None, as_json)


def _make_several(
    settings: dict[str, Any], job: Job, out: str | None, count: int, dry_run: bool, as_json: bool
) -> None:
    """One request with several seeds."""
    from cogvideox.generation.several import SeveralFiles, make_several
    from cogvideox.parallel.mesh import is_main_process

    files = SeveralFiles.of(out, count, job)
    prepared = _prepared(settings, job, dry_run)
    if dry_run:
        _show_plan(prepared, files.videos[0], as_json)
        return
    if prepared.forecast:
        say(f"estimated time of all {count}: about {duration(count * prepared.forecast.seconds)}")
    with _loaded(prepared) as model:
        for saved in make_several(model, prepared, files, TERMINAL):
            _tell_saved(saved, False, as_json)
        if is_main_process():
            result_json({"sheet": str(files.sheet)}) if as_json else result(str(files.sheet))


def _prepared(settings: dict[str, Any], job: Job, dry_run: bool) -> Prepared:
    """The request with what is recommended for it, checked and planned."""
    from cogvideox.generation.job import parse_options, prepare, settled
    from cogvideox.generation.preflight import check_adapters

    job, settings = settled(job, settings)
    _tell_recommended(job, settings)
    options = parse_options(settings)
    prepared = prepare(job, options, download=not dry_run, ask=not dry_run, reporter=TERMINAL)
    _tell_prompt(prepared)
    if dry_run:
        check_adapters(job.adapters, job.alpha, prepared.spec)
    return prepared


@contextmanager
def _loaded(prepared: Prepared) -> Iterator[CogVideoX]:
    """The model of a request, by as many processes as torchrun has started."""
    from cogvideox.generation.job import load, share
    from cogvideox.generation.preflight import size_of
    from cogvideox.parallel.mesh import is_main_process, process_group

    with process_group(prepared.job.target_device) as device:
        if is_main_process():
            cost = _cost_of(prepared.memory, prepared.forecast)
            say(f"{prepared.name}: {size_of(prepared.plan)}; {cost}")
            if prepared.plan.windows is not None:
                say(f"long video: {prepared.plan.frames.why}")
        job = replace(prepared.job, device=device)
        nets = prepared.plan.options.control_nets
        model = load(job, prepared.folder, policy=prepared.policy, control_nets=nets, reporter=TERMINAL)
        share(model, prepared.plan.options)
        yield model


def _tell_recommended(job: Job, settings: dict[str, Any]) -> None:
    """Say which settings a preset or an adapter has brought, and what a preset is made for."""
    for source in dict.fromkeys(job.recommended.values()):
        names = [name for name, each in job.recommended.items() if each == source]
        shown = ", ".join(f"{name.replace('_', '-')} {_plainly(settings[name])}" for name in names)
        say(f"{source} recommends {shown}")
    if job.preset and not job.adapters:
        from cogvideox.generation.recommended import get_settings_preset

        made_for = get_settings_preset(job.preset)
        say(
            f"preset {job.preset}: made for --model {made_for.model} with --lora of {made_for.adapter}; none is given"
        )


def _plainly(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _make_batch(
    source: Path,
    folder: Path,
    settings: dict[str, Any],
    job: Job,
    engine: JobEngine,
    dry_run: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Every line of a file; exit code 3 when some failed."""
    from cogvideox.generation.batch import BatchEvents, Item, run_batch

    class Events(BatchEvents):
        def checked(self, item: Item, options: GenerateOptions) -> None:
            values = {**item.settings, "prompt": options.prompt}
            result_json({"line": item.line, "out": str(item.path), "options": values})

        def saved(self, item: Item, saved: SavedVideo) -> None:
            _tell_saved(saved, item.settings.get("seed") is None, as_json)

        def failed(self, item: Item, error: Exception) -> None:
            if debug and not isinstance(error, CogVideoXError):
                traceback.print_exception(error)

    outcome = run_batch(
        source, folder, settings, job, dry_run=dry_run, engine=engine, reporter=TERMINAL, events=Events()
    )
    if outcome.failures:
        raise typer.Exit(PARTIAL)


def _tell_prompt(prepared: Prepared) -> None:
    """Say how the prompt was written out, or that it was not in a dry run."""
    enhance = prepared.job.enhance
    if prepared.enhanced is not None:
        say(f"enhance: {prepared.enhanced.enhanced}")
    elif enhance.spec is not None:
        say(f"enhance: {enhance.spec} is not asked in a dry run; the prompt is shown as it was given")


def _cost_of(memory: MemoryPlan, forecast: Forecast | None) -> str:
    """Estimated memory and time, for people."""
    choice = memory.choice
    need = f"{'at most ' if choice.bound else ''}{choice.peak / 1e9:.2g} GB" if choice else "?"
    limit = f" of {memory.limit / 1e9:.3g} GB" if memory.limit else ""
    time = f"about {duration(forecast.seconds)} ({forecast.basis}), " if forecast else ""
    return f"estimated: {time}memory {need}{limit}"


def _tell_saved(saved: SavedVideo, drawn: bool, as_json: bool) -> None:
    """Where a video was written, its size and seed, and how long each stage took."""
    if as_json:
        names = {".watch.gif": "watch", ".gif": "preview", ".png": "sheet"}
        previews = {
            next(name for end, name in names.items() if each.endswith(end)): each for each in saved.previews
        }
        paths = {"path": saved.path, **previews}
        result_json({**paths, **saved.size, "seed": saved.seed, "seconds": saved.seconds})
        return
    times = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in saved.stages.items())
    note = f" (drawn; --seed {saved.seed} repeats it)" if drawn else ""
    say(f"{saved.video} with seed {saved.seed}{note}; {times}")
    for path in (saved.path, *saved.previews):
        result(path)


def _show_plan(prepared: Prepared, path: Path, as_json: bool) -> None:
    """The resolved settings, as YAML or JSON on stdout."""
    made, forecast = prepared.plan, prepared.forecast
    plan: dict[str, Any] = {"height": made.height, "width": made.width, "fps": made.fps}
    plan |= {"frames": made.frames.asked, "why": made.frames.why}
    plan |= {"memory": prepared.memory.why, "seconds": round(forecast.seconds, 1) if forecast else None}
    if as_json:
        settings = made.options.model_dump(mode="json")
        result_json({"model": str(prepared.folder), "out": str(path), "options": settings, "plan": plan})
        return
    lines = [f"model: {prepared.folder}", f"out: {path}", *(f"plan_{k}: {v}" for k, v in plan.items())]
    result("\n".join(f"# {line}" for line in lines) + "\n" + made.options.to_yaml().rstrip())
