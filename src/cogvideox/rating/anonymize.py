"""Videos of several models re-encoded alike, so that nothing but their content tells the models apart.

The videos of one prompt get the same frame rate, number of frames, size, encoder settings and bytes: frames are
repeated, longer videos cut, smaller ones enlarged, files padded to the largest of them. Every change is reported.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from cogvideox.files.atomic import atomic_file
from cogvideox.video import Video, mp4_writer

LEAST_HEIGHT = 240
"""Pixels; smaller videos are enlarged without blur, so that codecs and screens do not blur them."""
MOST_FPS = 120
PRIVATE = 0o600
FREE = struct.Struct(">I4s")  # head of an empty box (ISO 14496-12): its size with this head, its type


@dataclass(frozen=True)
class VideoShape:
    """What all videos of one prompt share: frames a second, frames, height and width."""

    fps: Fraction
    frames: int
    height: int
    width: int


def common_fps(rates: Sequence[float]) -> Fraction:
    """A rate at which every video of a study can be shown with its own timing, by holding frames; at most 120, above
    which it is the highest of them."""
    exact = [Fraction(rate).limit_denominator(1001) for rate in rates]
    common = Fraction(math.lcm(*(f.numerator for f in exact)), math.gcd(*(f.denominator for f in exact)))
    return common if common <= MOST_FPS else max(exact)


def common_shape(videos: Sequence[Video], fps: Fraction) -> VideoShape:
    """The shortest time and the largest size of the videos of one prompt, at the rate of the whole study."""
    seconds = min(video.seconds for video in videos)
    tallest = max(video.height for video in videos)
    widest = max(round(video.width * tallest / video.height) for video in videos)
    grow = max(1, -(-LEAST_HEIGHT // tallest))
    return VideoShape(fps, max(1, round(seconds * fps)), tallest * grow, widest * grow)


def write_anonymized(videos: Sequence[Video], paths: Sequence[Path], fps: Fraction) -> list[str]:
    """Write the videos of one prompt alike; returns what was changed about each, "" for nothing that can be seen.

    Files are readable by their owner alone, and all of one size and one date. Raises OutputError.
    """
    shape = common_shape(videos, fps)
    for video, path in zip(videos, paths, strict=True):
        with (
            atomic_file(path, overwrite=True, mode=PRIVATE) as temporary,
            mp4_writer(temporary, shape.height, shape.width, shape.fps, {}) as add,
        ):
            for index in range(shape.frames):
                add(fitted(video, index, shape))
    size = max(path.stat().st_size for path in paths) + FREE.size
    for path in paths:
        _fill(path, size)
    return [_changes(video, shape) for video in videos]


def fitted(video: Video, index: int, shape: VideoShape) -> np.ndarray:
    """Frame ``index`` of the common shape, ``uint8 [h, w, 3]``: enlarged, with black bars where proportions differ."""
    now = Fraction(index) / shape.fps
    source = min(len(video) - 1, math.floor(now * Fraction(video.fps).limit_denominator(1001)))
    frame = video.frames[source]
    whole = min(shape.height // video.height, shape.width // video.width)
    if (video.height * whole, video.width * whole) == (shape.height, shape.width):
        return frame.repeat(whole, axis=0).repeat(whole, axis=1)
    scale = min(shape.height / video.height, shape.width / video.width)
    tall, wide = min(shape.height, round(video.height * scale)), min(shape.width, round(video.width * scale))
    canvas = np.zeros((shape.height, shape.width, 3), np.uint8)
    top, left = (shape.height - tall) // 2, (shape.width - wide) // 2
    canvas[top : top + tall, left : left + wide] = Video(frame[None], 1.0).resize(tall, wide).frames[0]
    return canvas


def _fill(path: Path, size: int) -> None:
    """Append an empty box up to ``size`` bytes (a sparse file), and set the same date on all files."""
    with path.open("r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(FREE.pack(size - stream.tell(), b"free"))
        stream.truncate(size)
        stream.flush()
        os.fsync(stream.fileno())
    os.utime(path, (0, 0))


def _changes(video: Video, shape: VideoShape) -> str:
    changes = []
    seconds = float(shape.frames / shape.fps)
    if video.seconds - seconds > 0.5 / float(shape.fps):
        changes.append(f"shown for its first {seconds:.2f} of {video.seconds:.2f} s")
    if video.height * shape.width != video.width * shape.height:
        changes.append(f"{video.width}x{video.height} shown with black bars in {shape.width}x{shape.height}")
    elif shape.height % video.height:
        changes.append(f"{video.width}x{video.height} enlarged to {shape.width}x{shape.height}")
    return ", ".join(changes)
