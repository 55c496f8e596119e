"""One file becomes clips with scores: what a worker does, a pure function of the file and the recipe."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

from cogvideox.clip import Caption, Clip, SourceFile
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.shot_views import ShotSegment, ShotViews
from cogvideox.errors import InputError, MediaError
from cogvideox.files import read_small_text
from cogvideox.files.digest import sha256_of_file
from cogvideox.video import Probe, open_decoder

MOST_TEXT = 1 << 16  # bytes of a caption that stands beside a video


class StepTimer:
    """Seconds of processor time by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        """Add the processor time since the last lap to ``name``."""
        now = time.process_time()
        self.seconds[name] += now - self._since
        self._since = now


def measure(root: Path, path: str, recipe: Recipe, clock: StepTimer | None = None) -> list[Clip]:
    """The clips of ``root/path``, at least one: a file that gives none is one dropped clip that says why.

    Each frame is decoded once. What is wrong with the file is in ``dropped``; nothing is raised for it.
    """
    clock = clock or StepTimer()
    file = root / path
    source = SourceFile(path=path)
    try:
        source = source.model_copy(update={"bytes": file.stat().st_size, "sha256": sha256_of_file(file)})
        clock.lap("hash")
        with open_decoder(file, recipe.limits.of_decoding(), recipe.colour) as decoder:
            source = with_header(source, decoder.header)
            refused = recipe.gate.refuses(decoder.header)
            if refused:
                return [Clip(source=source).drop("probe", *refused)]
            views = ShotViews(decoder, recipe.shots, recipe.look)
            clips = []
            for segment in views.segments():
                clock.lap("decode and cut")
                clips.append(_measured(segment, source, recipe, clock))
            source = with_totals(source, views)
            if not views.totals.frames:
                why = f"{path}: no frame could be decoded; the file is damaged, re-encode it"
                return [Clip(source=source).drop("decode", "unreadable", why)]
            if not clips:  # cuts so close that trimming left nothing between them
                return [Clip(source=source).drop("shots", "short", "no frame is left between its cuts")]
    except (MediaError, OSError) as error:
        return [Clip(source=source).drop("decode", "unreadable", _without(str(error), file, path))]
    try:
        captions = caption_beside(file, root)
    except InputError as error:
        beside = Path(path).with_suffix(".txt").as_posix()
        why = _without(str(error), file.with_suffix(".txt"), beside).replace(str(root), "the folder")
        return [
            clip.model_copy(update={"source": source}).drop("caption", "caption unreadable", why)
            for clip in clips
        ]
    return [
        clip.model_copy(update={"source": source, "captions": (*captions, *clip.captions)}) for clip in clips
    ]


def _measured(segment: ShotSegment, source: SourceFile, recipe: Recipe, clock: StepTimer) -> Clip:
    clip, view = Clip(source=source, span=segment.span), segment.view
    if view is None:
        return clip.drop("shots", "short", segment.note)
    for step in recipe.steps:
        clip, view = step.look(clip, view)
        clock.lap(step.kind)
        if clip.dropped:
            break
    return clip


def with_header(source: SourceFile, header: Probe) -> SourceFile:
    """The source with what the header of the file says."""
    return source.model_copy(
        update={
            "container": header.container.split(",")[0],
            "codec": header.codec,
            "pixel_format": header.pixel_format,
            "width": header.width,
            "height": header.height,
            "aspect": round(header.aspect, 6),
            "fps": round(header.fps, 4),
            "bit_rate": header.bit_rate,
            "sound": header.sound,
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


def caption_beside(file: Path, root: Path) -> tuple[Caption, ...]:
    """The text of ``name.txt`` beside ``name.mp4``, as its author's caption; nothing when there is none.

    Raises InputError for a pipe, a link out of ``root``, a text that is too long or not in UTF-8.
    """
    beside = file.with_suffix(".txt")
    if not os.path.lexists(beside):
        return ()
    text = " ".join(read_small_text(beside, root=root, most=MOST_TEXT).split())
    return (Caption(kind="user", text=text),) if text else ()


def _without(text: str, file: Path, path: str) -> str:
    """An error message without the folder: records must not depend on where the videos lie."""
    return text.replace(str(file), path)
