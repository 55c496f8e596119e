"""The verbs of the tiny world: render scenes, judge videos against the facts beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.cli.terminal import PARTIAL, result, result_json
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

FPS = 8.0
MOST_FACTS = 1 << 20  # bytes


def render_world(n: int, out: Path, seed: int, split: str, size: int, frames: int, overwrite: bool) -> None:
    """A folder of clips with their captions and facts beside them, or one contact sheet."""
    from cogvideox.files.atomic import atomic_file
    from cogvideox.video import Video, check_output, contact_sheet
    from cogvideox.world import caption, facts, render, sample_scene

    split = split.replace("-", "_")
    sheet = out.suffix.lower() == ".png"
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
    videos, captions = [], []
    with progress("rendering") as show:
        for index in range(n):
            scene = sample_scene(seed, index, split)
            text = caption(scene, seed, index)
            checks = [check.to_dict() for check in facts(scene)]
            config = {"prompt": text, "seed": seed, "index": index, "split": split}
            record = {"kind": "world", "config": config, "checks": checks}
            video = Video(render(scene, size, frames), FPS, record)
            if sheet:
                videos.append(video)
                captions.append(text)
            else:
                result(str(video.save(out / f"{index:05d}.mp4", overwrite)))
            show("rendering", index + 1, n)
    if sheet:
        with atomic_file(check_output(out, overwrite), overwrite) as temporary:
            contact_sheet(videos, captions).save(temporary, format="PNG")
        result(str(out))


def _is_foreign(file: Path) -> bool:
    """Whether something stands there that has no record of a rendered scene beside it."""
    from cogvideox.video import is_ours, sidecar_of

    return os.path.lexists(file) and not is_ours(sidecar_of(file))


def judge_videos(paths: list[Path], as_json: bool) -> None:
    """One line per video; exit code 3 when a video could not be judged."""
    from cogvideox.video import read_video
    from cogvideox.world import check_facts

    failed = 0
    for path in paths:
        try:
            checks = _facts_beside(path)
            verdict = check_facts(read_video(path).frames, checks)
        except CogVideoXError as error:
            if len(paths) == 1:
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


def validate_judge(n: int, model: str | None, device: str | None) -> None:
    """Tables of the judge against the truth, each kind of damage a row; with a model, its autoencoder is one."""
    from cogvideox.world.validate import CORRUPTIONS, KINDS, agreement_table, confusion_table, validate

    damages: dict[str, Any] = {name: name for name in CORRUPTIONS}
    if model is not None:
        damages[f"autoencoder of {model}"] = _round_trip(model, device)
    results: list[Any] = []
    with progress("judging") as show:

        def on_clip(number: int) -> None:
            show("clips", len(results) * n + number, len(damages) * n)

        for name, damage in damages.items():
            results.append(validate(n, damage, on_clip=on_clip))
            results[-1].name = name
    result(agreement_table(results))
    for one in results:
        for kind in KINDS:
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


def _facts_beside(path: Path) -> list[dict[str, Any]]:
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
    return checks
