"""The verbs of the tiny world: render scenes, judge videos against the facts beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Json, Overwrite, flag
from cogvideox.cli.terminal import PARTIAL, result, result_json, verb
from cogvideox.errors import (
    CogVideoXError,
    ConfigError,
    InputError,
    MediaError,
    OutputError,
    describe,
    suggest,
)
from cogvideox.files import read_json
from cogvideox.progress import progress, say

if TYPE_CHECKING:
    import numpy as np

    from cogvideox.video import Video

FPS = 8.0
Style = Annotated[str, flag("plain, or rich: more shapes, two things that meet, patterned ground")]
MOST_FACTS = 1 << 20  # bytes


world = typer.Typer(help="The tiny world: moving shapes whose truth is known.", no_args_is_help=True)


@world.command("render")
@verb
def render_world(
    n: Annotated[int, flag("how many scenes", None, "--n", min=1, max=100_000)] = 8,
    out: Annotated[str, flag("a folder for clips, or one .png for a contact sheet")] = "world.png",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: Annotated[str, flag("train or held-out part of the world")] = "train",
    style: Style = "plain",
    size: Annotated[int | None, flag("pixels; default: 64, rich 128", min=16, max=1024)] = None,
    frames: Annotated[int | None, flag("default: 17, rich 33", min=1, max=1024)] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Render clips whose truth is known: a folder of mp4 with facts beside them, or a contact sheet."""
    from cogvideox.files.atomic import atomic_file
    from cogvideox.video import check_output, contact_sheet

    path = Path(out)
    sheet = path.suffix.lower() == ".png"
    _check_render(path, n, sheet, overwrite)
    videos: list[Video] = []
    with progress("rendering") as show:
        for index in range(n):
            video = _rendered(seed, index, split.replace("-", "_"), style, size, frames)
            if sheet:
                videos.append(video)
            else:
                result(str(video.save(path / f"{index:05d}.mp4", overwrite)))
            show("rendering", index + 1, n)
    if sheet:
        captions = [video.manifest["config"]["prompt"] for video in videos]
        with atomic_file(check_output(path, overwrite), overwrite) as temporary:
            contact_sheet(videos, captions).save(temporary, format="PNG")
        result(str(path))


def _check_render(out: Path, n: int, sheet: bool, overwrite: bool) -> None:
    """Refuse, before anything is rendered, what could not be written."""
    from cogvideox.video import check_output

    if not sheet and out.suffix:
        raise ConfigError(f"out {out}: name a folder for clips, or a .png for a contact sheet")
    if sheet:
        check_output(out, overwrite)
        if n > 200:
            raise ConfigError(f"n {n}: a contact sheet holds at most 200 rows; name a folder instead")
    elif overwrite:
        foreign = [file for file in (out / f"{index:05d}.mp4" for index in range(n)) if _is_foreign(file)]
        if foreign:
            raise OutputError(
                f"{foreign[0]}: exists already and was not made here; move it or choose another --out"
            )


def _rendered(seed: int, index: int, split: str, style: str, size: int | None, frames: int | None) -> Video:
    """A scene as a video whose record holds its caption and its facts."""
    from cogvideox.video import Video
    from cogvideox.world import caption, facts, render, sample_scene

    scene = sample_scene(seed, index, split, style=style)
    config = {"prompt": caption(scene, seed, index), "seed": seed, "index": index, "split": split}
    if style != "plain":
        config["style"] = style
    record = {"kind": "world", "config": config, "checks": [check.to_dict() for check in facts(scene)]}
    return Video(render(scene, size, frames), FPS, record)


def _is_foreign(file: Path) -> bool:
    """Whether something stands there that has no record of a rendered scene beside it."""
    from cogvideox.video import is_ours, sidecar_of

    return os.path.lexists(file) and not is_ours(sidecar_of(file))


@world.command("judge")
@verb
def judge_videos(
    videos: Annotated[list[str], typer.Argument(help="videos with their facts beside them as .json")],
    style: Annotated[str | None, flag("plain or rich; default: as the record beside a video says")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether videos show the facts that stand beside them (exit code 3 when one could not be judged)."""
    from cogvideox.video import read_video
    from cogvideox.world import check_facts

    failed = 0
    for path in map(Path, videos):
        try:
            checks, written = _facts_beside(path)
            verdict = check_facts(read_video(path).frames, checks, style or written)
        except CogVideoXError as error:
            if len(videos) == 1:
                raise
            failed += 1
            say(f"error: {describe(error)}")
            continue
        if as_json:
            result_json({"path": str(path), **verdict.to_dict()})
            continue
        wrong = [f"{f.check.kind} {f.check.value}: seen {f.seen}" for f in verdict.findings if not f.holds]
        held = len(verdict.findings) - len(wrong)
        result(f"{path}: {held} of {len(verdict.findings)} facts hold" + "".join(f"; {w}" for w in wrong))
    if failed:
        raise typer.Exit(PARTIAL)


@world.command("validate")
@verb
def validate_judge(
    n: Annotated[int, flag("clips for every kind of damage", None, "--n", min=1, max=100_000)] = 1000,
    model: Annotated[str | None, flag("judge clips that went through this model's autoencoder too")] = None,
    device: Annotated[str | None, flag("where the autoencoder runs")] = None,
    style: Style = "plain",
    wrong: Annotated[bool, flag("also state one fact of each clip wrongly: how many are refused?")] = False,
    debug: Debug = False,
) -> None:
    """Say how often the judge is right about clips whose truth is known, whole and damaged."""
    from cogvideox.world.validate import (
        CORRUPTIONS,
        KINDS,
        RICH_KINDS,
        agreement_table,
        confusion_table,
        validate,
    )

    damages: dict[str, Any] = {name: name for name in CORRUPTIONS}
    if model is not None:
        damages[f"autoencoder of {model}"] = _round_trip(model, device)
    results: list[Any] = []
    with progress("judging") as show:

        def on_clip(number: int) -> None:
            show("clips", len(results) * n + number, len(damages) * n)

        for name, damage in damages.items():
            results.append(validate(n, damage, on_clip=on_clip, style=style, wrong=wrong))
            results[-1].name = name
    result(agreement_table(results))
    for one in results:
        for kind in (*KINDS, *(RICH_KINDS if style != "plain" else ())):
            if one is results[0] or one.right[kind] < one.asked[kind]:
                result(f"\n{one.name}:\n\n{confusion_table(one, kind)}")


def _round_trip(model: str, device: str | None) -> Callable[..., np.ndarray]:
    """Frames to latents and back."""
    from cogvideox.checkpoints.diffusers import load_vae
    from cogvideox.device import best_device
    from cogvideox.evaluation.fidelity import round_trip
    from cogvideox.generation.preflight import model_folder

    vae = load_vae(model_folder(model), dtype="float32").to(device or best_device())
    code = round_trip(vae)
    return lambda frames, rng: code(frames)


def _facts_beside(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The facts that stand beside a video, and the style of the world that they speak of."""
    from cogvideox.video import sidecar_of

    if "\0" in str(path) or not path.is_file():
        raise MediaError(f"{str(path)!r}: no such file; check the path")
    beside = sidecar_of(path)
    try:
        record = read_json(beside, root=beside.parent, most=MOST_FACTS, nan_is_none=True, error=InputError)
    except InputError as error:
        why = "missing" if not os.path.lexists(beside) else f"not readable as JSON ({error})"
        raise InputError(f"{beside}: {why}; the facts to judge {path.name} by stand there") from None
    checks = record.get("checks") if isinstance(record, dict) else None
    if not isinstance(checks, list) or not all(isinstance(check, dict) for check in checks):
        known = record if isinstance(record, dict) else {}
        raise InputError(f"{beside}: has no list 'checks'{suggest('checks', known)}; nothing to judge by")
    config = record.get("config")
    style = config.get("style", "plain") if isinstance(config, dict) else "plain"
    return checks, str(style)
