"""Tiny videos in every container, at every rate: frame i is grey of a level that tells i, also after lossy coding."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATES = {
    text: Fraction(text)
    if text not in ("23.976", "29.97", "59.94")
    else Fraction(round(float(text)) * 1000, 1001)
    for text in [
        "7.5",
        "8",
        "8.02",
        "12",
        "15",
        "16",
        "23.976",
        "24",
        "25",
        "29.97",
        "30",
        "50",
        "59.94",
        "60",
    ]
}
LENGTHS = (1, 2, 9, 16, 17, 33, 48, 49, 81)
CONTAINERS = {
    "mp4": "libx264",  # B-frames: timestamps out of order, the first decoding time below 0
    "mov": "mpeg4",
    "mkv": "libx264",
    "ffv1.mkv": "ffv1",
    "webm": "libvpx",
    "avi": "mpeg4",
    "ts": "libx264",
    "gif": "gif",
}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "bf": "2", "x264-params": "b-adapt=0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
}
PIXELS = {"ffv1": "bgr0", "gif": "rgb8"}


def levels(count: int) -> np.ndarray:
    """Grey levels of frames: neighbours differ by 40 and more, a level comes again after six frames."""
    return np.array([20 + 40 * (n * 5 % 6) for n in range(count)])


def write_tiny(
    path: Path, count: int, rate: Fraction, codec: str, times: list[Fraction] | None = None, **settings
) -> Path:
    """``count`` frames of 16 x 16 at ``rate``, or at ``times`` in seconds."""
    with av.open(str(path), "w", **settings) as container:
        stream = container.add_stream(codec, rate=rate, options=OPTIONS.get(codec, {}))
        stream.width = stream.height = 16
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        clock = Fraction(1, 90000)
        if times is not None:
            stream.codec_context.time_base = clock
        for number, level in enumerate(levels(count)):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def expected(count: int, rate: Fraction, asked: Fraction) -> int:
    """How many frames a clip has at another rate: those at i / asked before its end, a millisecond is not seen."""
    return max(1, math.ceil((count / rate - Fraction(1, 1000)) * asked))


def is_each_frame(frames: np.ndarray, count: int) -> bool:
    """Whether these are the frames that ``write_tiny`` wrote, all of them, each once, in order."""
    seen = frames.mean(axis=(1, 2, 3))
    return len(frames) == count and bool((np.abs(seen - levels(count)) < 18).all())
