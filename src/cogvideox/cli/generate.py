"""The verb generate: flags become options, options become a video, the video becomes a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.enhance import ENHANCE_HELP, Enhance
from cogvideox.cli.enhance import MODEL_HELP as ENHANCER_HELP
from cogvideox.cli.job import (
    Job,
    check_shareable,
    cost_of,
    fit_memory,
    foresee,
    limit_of,
    load,
    make,
    read_lora,
    resolve,
    save,
    share,
    show_plan,
    size_of,
    target,
)
from cogvideox.cli.plan import LIMIT_HELP, MEMORY_HELP, follow
from cogvideox.cli.terminal import verb
from cogvideox.errors import ConfigError
from cogvideox.progress import say

ATTENTION_HELP = (
    "kernel: fastest (the fastest right one here), torch, torch-cudnn, flash-3, sage (8-bit), ..."
)
REUSE_HELP = "error, such as 0.1, at which a step reuses an earlier one (see calibrate); default: 0, never"
MODULATION_HELP = "tables (once for all steps) or layers (at every step)"


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
    join: Annotated[
        bool, typer.Option("--join", help="with --continue: put the video before what follows")
    ] = False,
    fit: Annotated[
        str | None,
        typer.Option(
            help="how --image or --video fills the size: cover (crop), contain (black bars), stretch"
        ),
    ] = None,
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
    seed: Annotated[
        int | None, typer.Option(help="the same seed gives the same video; default: drawn")
    ] = None,
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
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="make it even if it is estimated not to fit, or to take over a day"),
    ] = False,
    enhance: Annotated[str | None, typer.Option(help=ENHANCE_HELP)] = None,
    enhance_model: Annotated[str | None, typer.Option(help=ENHANCER_HELP)] = None,
    batch: Annotated[str | None, typer.Option(help="file: one prompt or JSON object a line, or .csv")] = None,
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
        "join": join or None,
        "strength": strength,
        "fit": fit,
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
        "anyway": anyway or None,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    job = Job(
        model=model or "",
        adapters=tuple(read_lora(text) for text in lora or []),
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
    if "join" in settings and "video_use" not in settings and batch is None:
        raise ConfigError("--join: has no effect without --continue; give both")
    if batch is None and not settings.keys() & {"prompt", "image", "video"}:
        raise ConfigError(
            'prompt: missing; for example: cogvideox generate "a red circle moves to the right"'
        )


def _make_one(settings: dict[str, Any], job: Job, out: str | None, dry_run: bool) -> None:
    """One request: everything is checked and planned before a weight is read."""
    path = target(out, job)
    options = resolve(settings)
    name = job.model_for(settings)
    ready = checks.check_request(name, options, download=not dry_run)
    options, enhanced = job.enhance.apply(options, ready.folder, dry_run)
    checks.warn_of_unknown(ready, options, job.adapters)
    options = checks.with_calibration(options, ready.folder)
    found = foresee(job, options, ready)
    fitted = fit_memory(job, options, ready, limit_of(job, options.anyway))
    options = follow(options, fitted.choice)
    check_shareable(options, fitted)
    if dry_run:
        checks.check_adapters(job.adapters, job.alpha, ready.folder)
        show_plan(options, ready, path, job, fitted, found)
        return
    from cogvideox.parallel.mesh import is_first, launched

    with launched(job.place) as place:
        if is_first():
            say(f"{name}: {size_of(options, ready)}; {cost_of(fitted, found)}")
        job = replace(job, device=place)
        loaded = load(job, ready.folder, policy=fitted.choice.policy)
        share(loaded, options)
        made = make(loaded, options, ready, options.prompt[:40] or path.name, fitted, enhanced, found)
        if is_first():
            save(made, path, job, options)
