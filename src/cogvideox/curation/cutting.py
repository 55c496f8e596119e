"""Kept clips become files: decoded once more, in one pass over the video, encoded once, or copied as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.clip import Clip, Span
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.work_folder import strip_file
from cogvideox.errors import MediaError
from cogvideox.files.atomic import atomic_file
from cogvideox.files.digest import sha256_of_file
from cogvideox.perception.flow import opencv
from cogvideox.video import Size, Timing, mp4_writer, open_decoder
from cogvideox.video.decode import DecodedFrame
from cogvideox.video.timing import nearest_in_time


@dataclass(frozen=True)
class Media:
    """Facts about the file of one clip."""

    sha256: str
    bytes: int
    frames: int
    fps: str  # a fraction, exact
    width: int
    height: int
    copied: bool  # byte for byte from the video


def cut(
    root: Path, path: str, clips: Sequence[Clip], folder: Path, recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """Write ``folder/<id>.mp4`` for clips of one video; returns id -> Media as plain values.

    Raises MediaError when the video cannot be read as far as it was before, OutputError when the disk is full.
    """
    media: dict[str, dict[str, Any]] = {}
    rest = []
    for clip in clips:
        if can_copy(clip, recipe):
            media[clip.id] = asdict(_copied(root / path, clip, folder))
        else:
            rest.append(clip)
    if rest:
        with open_decoder(root / path, recipe.limits.of_decoding(), recipe.colour) as decoder:
            frames = _Rewindable(decoder.frames())
            for clip in sorted(rest, key=lambda clip: _span(clip).first):
                own = decoder.timing.span(_span(clip).first, _span(clip).stop)
                media[clip.id] = asdict(_encoded(frames, own, clip, folder, recipe))
    return media


def can_copy(clip: Clip, recipe: Recipe) -> bool:
    """Whether the video is this clip, and plays everywhere as it is."""
    source, cutting = clip.source, recipe.cutting
    whole = clip.crop is None and _span(clip).first == 0 and _span(clip).stop == source.frames
    plain = source.container == "mov" and source.codec == "h264" and source.pixel_format == "yuv420p"
    upright = source.aspect == 1 and source.turns == 0 and not source.mirrored and source.steady
    as_is = cutting.fps is None and (cutting.side is None or cutting.side >= min(source.width, source.height))
    return cutting.copy_whole and whole and plain and upright and as_is


def _copied(video: Path, clip: Clip, folder: Path) -> Media:
    target = folder / f"{clip.id}.mp4"
    with atomic_file(target, overwrite=True) as temporary:
        shutil.copyfile(video, temporary)
    digest = sha256_of_file(target)
    if digest != clip.source.sha256:
        raise MediaError(f"{clip.source.path}: changed since it was measured; run again")
    rate = Fraction(clip.source.fps).limit_denominator(1001)
    return Media(digest, target.stat().st_size, clip.source.frames, str(rate), clip.width, clip.height, True)


def _encoded(frames: _Rewindable, own: Timing, clip: Clip, folder: Path, recipe: Recipe) -> Media:
    cutting = recipe.cutting
    rate = cutting.rate(own.rate)
    shape = Size(clip.height, clip.width).fitted(cutting.side or 1 << 20)
    shape = Size(shape.height - shape.height % 2 or 2, shape.width - shape.width % 2 or 2)
    target, count = folder / f"{clip.id}.mp4", 0
    with (
        atomic_file(target, overwrite=True) as temporary,
        mp4_writer(temporary, shape.height, shape.width, rate, {}, cutting.crf, cutting.preset) as add,
    ):
        for step in _wanted(frames, own, clip, float(rate), keep_all=cutting.fps is None and own.steady):
            add(_picture(step, clip, shape))
            count += 1
        if not count:
            ends = f"ends before {_span(clip).start:.2f} s"
            raise MediaError(f"{clip.source.path}: {ends}; it has changed, run again")
    size = target.stat().st_size
    return Media(sha256_of_file(target), size, count, str(rate), shape.width, shape.height, copied=False)


def _wanted(
    frames: _Rewindable, own: Timing, clip: Clip, rate: float, keep_all: bool
) -> Iterator[DecodedFrame]:
    """The frames of a clip: all of them, or those nearest to i / rate of its own clock."""
    inside = frames.within(_span(clip).first, _span(clip).stop)
    return (step for _, step in inside) if keep_all else nearest_in_time(_from_zero(inside, own), rate, own)


def _from_zero(
    frames: Iterator[tuple[float, DecodedFrame]], own: Timing
) -> Iterator[tuple[float, DecodedFrame]]:
    """Seconds since the first of these frames; on the grid of a steady clip, exactly."""
    start: float | None = None
    for moment, step in frames:
        start = moment if start is None else start
        since = moment - start
        yield (round(since * own.fps) / own.fps if own.steady else since), step


def _picture(step: DecodedFrame, clip: Clip, shape: Size) -> np.ndarray:
    """``uint8 [h, w, 3]`` of ``shape``: cropped, then scaled."""
    box, source = clip.crop, clip.source
    if box is None:
        return step.pixels(shape)
    whole = step.pixels(Size(source.height, source.width))
    inside = whole[box.top : box.top + box.height, box.left : box.left + box.width]
    if inside.shape[:2] == (shape.height, shape.width):
        return np.ascontiguousarray(inside)
    cv2 = opencv()
    return cv2.resize(inside, (shape.width, shape.height), interpolation=cv2.INTER_AREA)


def _span(clip: Clip) -> Span:
    assert clip.span is not None, "what is cut out was decoded"
    return clip.span


class _Rewindable:
    """Numbered frames of a decoder; the one that ended a span is still there for the next."""

    def __init__(self, frames: Iterator[tuple[float, DecodedFrame]]) -> None:
        self._frames = enumerate(frames)
        self._held: tuple[int, tuple[float, DecodedFrame]] | None = None

    def within(self, first: int, stop: int) -> Iterator[tuple[float, DecodedFrame]]:
        """(seconds, frame) for the frames numbered first to before stop."""
        while True:
            numbered = self._held or next(self._frames, None)
            self._held = None
            if numbered is None:
                return
            if numbered[0] >= stop:
                self._held = numbered
                return
            if numbered[0] >= first:
                yield numbered[1]
            if numbered[0] == stop - 1:
                return


FRAMES = 4
SIDE = 72  # pixels of the shorter side


def write_strips(root: Path, path: str, clips: Sequence[Clip], work: Path, recipe: Recipe) -> None:
    """One PNG of four frames per clip of one video, in one pass; a video that breaks leaves what was read."""
    wanted: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        for number in np.linspace(_span(clip).first, _span(clip).stop - 1, FRAMES).astype(int):
            wanted.setdefault(int(number), []).append(index)
    seen: list[list[np.ndarray]] = [[] for _ in clips]
    try:
        with open_decoder(root / path, recipe.limits.of_decoding(), recipe.colour) as decoder:
            for number, (_, step) in enumerate(decoder.frames()):
                for index in wanted.get(number, ()):
                    seen[index].append(step.pixels(decoder.size.fitted(SIDE)))
                if number >= max(wanted):
                    break
    except MediaError:
        if not any(seen):
            return
    cv2 = opencv()
    for clip, frames in zip(clips, seen, strict=True):
        if frames:
            encoded = cv2.imencode(".png", np.concatenate(frames, axis=1)[:, :, ::-1])[1]
            with atomic_file(strip_file(work, clip.id), overwrite=True) as temporary:
                temporary.write_bytes(encoded.tobytes())
