"""Small films for tests: takes of moving texture, written by PyAV in milliseconds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def take(seed: int, frames: int, height: int = 64, width: int = 96, speed: float = 1.0) -> np.ndarray:
    """A texture of its own brightness and colours, drifting ``speed`` pixels a frame: ``uint8 [t, h, w, 3]``."""
    rng = np.random.default_rng(seed)
    knots = rng.uniform(0, 1, (8, 12, 3)) * rng.uniform(60, 200, 3) + rng.uniform(0, 40)
    rows, columns = np.linspace(0, 7, height), np.linspace(0, 11, 2 * width)
    smooth = _resample(_resample(knots, rows, 0), columns, 1)
    smooth += rng.normal(0, 6, smooth.shape[:2])[..., None]
    moved = [np.roll(smooth, -round(speed * n), axis=1)[:, :width] for n in range(frames)]
    return np.stack(moved).clip(0, 255).astype(np.uint8)


def _resample(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    low = np.floor(places).astype(int).clip(0, values.shape[axis] - 2)
    part = (places - low).reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    return np.take(values, low, axis) * (1 - part) + np.take(values, low + 1, axis) * part


def write(
    path: Path, frames: np.ndarray, fps: int = 8, codec: str = "libx264", pts: list[int] | None = None
) -> Path:
    """A file of these frames; ``pts`` in thousandths of a second makes their rate vary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "ultrafast"} if codec == "libx264" else {}
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
