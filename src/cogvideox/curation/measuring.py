"""One file becomes clips with scores: what a worker does, a pure function of the file and the recipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cogvideox.clip import Caption, Clip, SourceFile
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.shot_views import ShotSegment, ShotViews
from cogvideox.errors import InputError, MediaError
from cogvideox.files import read_small_text
from cogvideox.files.digest import sha256_of_file
from cogvideox.video import Probe, open_decoder

MOST_TEXT = 1 << 16  # bytes of a caption that stands beside a video


def measure(
    root: Path, path: str, recipe: Recipe, on_done: Callable[[str], None] = lambda name: None
) -> list[Clip]:
    """The clips of ``root/path``, at least one: a file that gives none is one dropped clip that says why.

    Each frame is decoded once: header gate, shots, steps, then the caption that stands beside the file. What is wrong
    with the file is in ``dropped``; nothing is raised for it. ``on_done`` is told what was just done, for timing.
    """
    file = root / path
    source = SourceFile(path=path)
    try:
        source = source.model_copy(update={"bytes": file.stat().st_size, "sha256": sha256_of_file(file)})
        on_done("hash")
        with open_decoder(file, recipe.limits.of_decoding(), recipe.colour) as decoder:
            source = with_header(source, decoder.header)
            refused = recipe.gate.refuses(decoder.header)
            if refused:
                return [Clip(source=source).drop("probe", *refused)]
            views = ShotViews(decoder, recipe.shots, recipe.look)
            clips = []
            for segment in views.segments():
                on_done("decode and cut")
                clips.append(_after_steps(segment, source, recipe, on_done))
            source = with_totals(source, views)
    except (MediaError, OSError) as error:
        return [Clip(source=source).drop("decode", "unreadable", _without(str(error), file, path))]
    if not views.totals.frames:
        why = f"{path}: no frame could be decoded; the file is damaged, re-encode it"
        return [Clip(source=source).drop("decode", "unreadable", why)]
    if not clips:  # cuts so close that trimming left nothing between them
        return [Clip(source=source).drop("shots", "short", "no frame is left between its cuts")]
    captions, why = _own_caption(file, root, path)
    clips = [c.model_copy(update={"source": source, "captions": (*captions, *c.captions)}) for c in clips]
    return [clip.drop("caption", "caption unreadable", why) for clip in clips] if why else clips


def _after_steps(
    segment: ShotSegment, source: SourceFile, recipe: Recipe, on_done: Callable[[str], None]
) -> Clip:
    clip, view = Clip(source=source, span=segment.span), segment.view
    if view is None:
        return clip.drop("shots", "short", segment.note)
    for step in recipe.steps:
        clip, view = step.look(clip, view)
        on_done(step.kind)
        if clip.dropped:
            break
    return clip


def with_header(source: SourceFile, header: Probe) -> SourceFile:
    """The source with what the header of the file says."""
    same = ("codec", "pixel_format", "width", "height", "bit_rate", "sound")
    return source.model_copy(
        update={
            **{name: getattr(header, name) for name in same},
            "container": header.container.split(",")[0],
            "aspect": round(header.aspect, 6),
            "fps": round(header.fps, 4),
            "matrix": header.colours.matrix,
            "full_range": header.colours.full,
            "matrix_guessed": header.colours.guessed,
        }
    )


def with_totals(source: SourceFile, views: ShotViews) -> SourceFile:
    """The source with what is only known after the last frame: its size, orientation, timing."""
    totals, size = views.totals, views.decoder.size
    return source.model_copy(
        update={
            "width": size.width,
            "height": size.height,
            "turns": views.decoder.orientation.turns,
            "mirrored": views.decoder.orientation.mirrored,
            "frames": totals.frames,
            "fps": round(totals.fps, 4),
            "steady": totals.steady,
            "seconds": round(totals.seconds, 6),
        }
    )


def _own_caption(file: Path, root: Path, path: str) -> tuple[tuple[Caption, ...], str]:
    """The text of ``name.txt`` beside ``name.mp4`` as its author's caption, nothing without one; and why a text that
    stands there cannot be read: a pipe, a link out of ``root``, too long, not in UTF-8."""
    beside = file.with_suffix(".txt")
    if not os.path.lexists(beside):
        return (), ""
    try:
        text = " ".join(read_small_text(beside, root=root, most=MOST_TEXT).split())
    except InputError as error:
        why = _without(str(error), beside, Path(path).with_suffix(".txt").as_posix())
        return (), why.replace(str(root), "the folder")
    return ((Caption(kind="user", text=text),) if text else ()), ""


def _without(text: str, file: Path, path: str) -> str:
    """An error message without the folder: records must not depend on where the videos lie."""
    return text.replace(str(file), path)
