"""Decode a video once, frame by frame, each frame at the sizes that are asked for.

For files of any length: memory holds one frame. Scaling and the conversion to RGB are one pass; a frame that is not
asked for pixels costs its decoding only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogvideox.video.colour import Colour, code_for
from cogvideox.video.orientation import Orientation, orientation_of
from cogvideox.video.reading import LIMITS, DecodeLimits, OpenVideo, Probe
from cogvideox.video.timing import Timing

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    def fitted(self, short_side: int) -> Size:
        """Scaled down so that the shorter side is at most ``short_side``; never up; at least one pixel."""
        scale = min(1.0, short_side / min(self.height, self.width))
        return Size(max(1, round(self.height * scale)), max(1, round(self.width * scale)))


class VideoDecoder:
    """An open video. ``header``: what the file says of itself; ``size``: upright, with square pixels."""

    def __init__(self, opened: OpenVideo) -> None:
        self._opened = opened
        self.header: Probe = opened.probe()
        self.size = Size(self.header.height, self.header.width)
        self.orientation = Orientation()
        self._scalers: dict[Size, VideoReformatter] = {}

    @property
    def timing(self) -> Timing:
        """The clock of the whole file."""
        return self._opened.timing

    def frames(self) -> Iterator[tuple[float, DecodedFrame]]:
        """(seconds since the first frame, frame) in display order.

        Raises MediaError at damage, at a limit, and when the frame size changes on the way.
        """
        stored: tuple[int, int, Orientation] | None = None
        for moment, frame in self._opened.frames():
            orientation = orientation_of(frame)
            now = (frame.height, frame.width, orientation)
            if stored is None:
                stored, self.orientation = now, orientation
                width = max(1, round(frame.width * self.header.aspect))
                upright = (width, frame.height) if orientation.on_its_side else (frame.height, width)
                self.size = Size(*upright)
            elif now != stored:
                raise self._opened.error("the frame size changes on the way; re-encode it at one size")
            yield moment, DecodedFrame(self, frame)

    def pixels(self, frame: av.VideoFrame, size: Size) -> np.ndarray:
        """``uint8 [h, w, 3]`` of ``size``, upright."""
        from av.video.reformatter import Interpolation, VideoReformatter

        flat = Size(size.width, size.height) if self.orientation.on_its_side else size
        scaler = self._scalers.setdefault(flat, VideoReformatter())
        way = Interpolation.AREA if flat.height < frame.height else Interpolation.BICUBIC
        matrix = code_for(frame, self._opened.colours(frame))
        scaled = scaler.reformat(
            frame,
            flat.width,
            flat.height,
            format="rgb24",
            src_colorspace=matrix,
            interpolation=way,
            threads=1,
        )
        return self.orientation.apply(scaled.to_ndarray())


class DecodedFrame:
    """One frame of a walk, not yet turned into pixels."""

    def __init__(self, open_decoder: VideoDecoder, frame: av.VideoFrame) -> None:
        self._walk, self._frame = open_decoder, frame

    def pixels(self, size: Size) -> np.ndarray:
        """``uint8 [h, w, 3]`` at ``size``, upright."""
        return self._walk.pixels(self._frame, size)


@contextmanager
def open_decoder(
    path: str | Path, limits: DecodeLimits = LIMITS, colour: Colour = "guess"
) -> Iterator[VideoDecoder]:
    """Open a video for one walk. Raises MediaError for whatever is wrong with it, now or on the way.

    colour: how untagged colours are read.
    """
    with OpenVideo(path, limits, colour) as opened:
        yield VideoDecoder(opened)
