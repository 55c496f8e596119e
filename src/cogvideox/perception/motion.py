"""The motion score. Curation filters by it and evaluation scores with it: the same function, the same units.

Units are shares of the shorter side per second, so that the score of a clip does not depend on its size or its rate:
1.0 means that a pixel crosses the shorter side in one second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cogvideox.perception.flow import DisFlow, Flow

STILL = 0.005  # of the shorter side per second: below it a pixel rests


@dataclass(frozen=True)
class Motion:
    """How much moves. All but ``still`` in shorter sides per second."""

    mean: float  # over all pixels and pairs of frames
    top: float  # over the 5 % of pixels that move most: small things count too
    camera: float  # the movement that most of the picture shares
    own: float  # what is left, in the 5 % that move most, when the camera's share is taken away
    shake: float  # how much the shared movement differs from its own running mean
    still: float  # share of pixels at rest


RESTING = Motion(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def motion_of(pictures: np.ndarray, moments: Sequence[float], flow: Flow | None = None) -> Motion:
    """The motion of a clip.

    pictures: ``uint8 [t, h, w]``, or ``[t, h, w, 3]`` for a flow that reads colours. moments: seconds of each frame,
    rising. One frame does not move.
    """
    fields = flow_fields(pictures, moments, flow or DisFlow())
    return summarise(fields, np.diff(np.asarray(moments, float)))


def flow_fields(pictures: np.ndarray, moments: Sequence[float], flow: Flow) -> np.ndarray:
    """Speeds ``float32 [t - 1, h, w, 2]`` in shorter sides per second, to the right and down.

    Every second row and column of pictures of 64 pixels and more: flow is smooth, memory is not free.
    """
    height, width = pictures.shape[1:3]
    short = min(height, width)
    every = 2 if short >= 64 else 1
    fields = np.zeros((max(0, len(pictures) - 1), -(-height // every), -(-width // every), 2), np.float32)
    for place, span in enumerate(np.diff(np.asarray(moments, float))):
        field = flow(np.ascontiguousarray(pictures[place]), np.ascontiguousarray(pictures[place + 1]))
        fields[place] = field[::every, ::every] / (short * max(float(span), 1e-3))
    return fields


def summarise(fields: np.ndarray, spans: np.ndarray) -> Motion:
    """Numbers of a clip from its speeds ``[t - 1, h, w, 2]`` and the seconds between its frames ``[t - 1]``."""
    if not len(fields):
        return RESTING
    flat = fields.reshape(len(fields), -1, 2)  # [t - 1, h * w, 2]
    speed = np.linalg.norm(flat, axis=2)
    shared = np.median(flat, axis=1)  # [t - 1, 2]
    residual = np.linalg.norm(flat - affine(fields).reshape(flat.shape), axis=2)
    return Motion(
        mean=float(speed.mean()),
        top=float(_top(speed).mean()),
        camera=float(np.linalg.norm(shared, axis=1).mean()),
        own=float(_top(residual).mean()),
        shake=_shake(shared, spans),
        still=float((speed < STILL).mean()),
    )


def affine(fields: np.ndarray) -> np.ndarray:
    """The affine movement ``[n, h, w, 2]`` that explains each field best: pans, zooms and rolls of a camera.

    Least squares on a coarse grid, twice: the second time without the third that fits worst.
    """
    count, height, width, _ = fields.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    basis = np.stack([np.ones_like(rows), columns / width - 0.5, rows / height - 0.5], axis=2).reshape(-1, 3)
    pick = np.arange(0, len(basis), max(1, len(basis) // 1024))
    flat = fields.reshape(count, -1, 2)
    fitted = np.empty_like(flat)
    for place in range(count):
        design, moved = basis[pick], flat[place, pick]
        weights = np.linalg.lstsq(design, moved, rcond=None)[0]
        error = np.linalg.norm(moved - design @ weights, axis=1)
        good = error <= np.quantile(error, 0.67)
        fitted[place] = basis @ np.linalg.lstsq(design[good], moved[good], rcond=None)[0]
    return fitted.reshape(fields.shape)


def _top(speed: np.ndarray) -> np.ndarray:
    """The mean of the largest 5 % of each row of ``[n, pixels]``."""
    count = max(1, speed.shape[1] // 20)
    return np.partition(speed, -count, axis=1)[:, -count:].mean(axis=1)


def _shake(shared: np.ndarray, spans: np.ndarray) -> float:
    """Root mean square of what the shared movement differs from its mean over about half a second."""
    if len(shared) < 3:
        return 0.0
    window = max(3, int(round(0.5 / max(float(np.median(spans)), 1e-3))) | 1)
    padded = np.pad(shared, ((window // 2, window // 2), (0, 0)), mode="edge")
    kernel = np.ones(window) / window
    smooth = np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)
    return float(np.sqrt(((shared - smooth) ** 2).sum(axis=1).mean()))
