"""Damage to clips on purpose, to test whether a metric, a fact check or a feature network notices it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cogvideox.errors import InputError, suggest

DISTORTIONS = ("blur", "noise", "shuffle", "freeze")
MOST_BLUR = 3.0  # pixels at a height of 64
MOST_NOISE = 40.0  # grey levels
Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(uint8 frames ``[t, h, w, 3]``, random generator) -> frames of the same shape."""


def distort(frames: np.ndarray, kind: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """``frames`` uint8 [t, h, w, 3] with ``amount`` (0: none, 1: most) of one kind of damage. Raises InputError.

    blur: Gaussian, up to 3 pixels at a height of 64. noise: up to 40 grey levels. shuffle: that fraction of the
    frames is permuted. freeze: the last fraction of the clip repeats one frame.
    """
    if kind not in DISTORTIONS:
        raise InputError(
            f"distortion {kind!r}: not one of {', '.join(DISTORTIONS)}{suggest(kind, DISTORTIONS)}"
        )
    if amount <= 0:
        return frames
    if kind == "blur":
        return blurred(frames, rng, amount * MOST_BLUR * frames.shape[1] / 64)
    if kind == "noise":
        return noisy(frames, rng, amount * MOST_NOISE)
    if kind == "shuffle":
        return _shuffled(frames, amount, rng)
    moving = max(1, round(len(frames) * (1 - amount)))
    return frames[np.minimum(np.arange(len(frames)), moving - 1)]


def _shuffled(frames: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(len(frames))[: round(amount * len(frames))]
    order = np.arange(len(frames))
    order[np.sort(chosen)] = rng.permutation(chosen)
    return frames[order]


def blurred(frames: np.ndarray, rng: np.random.Generator, sigma: float = 1.0) -> np.ndarray:
    """Gaussian blur within each frame; ``sigma`` in pixels."""
    reach = int(np.ceil(3 * sigma))
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weight /= weight.sum()
    values = frames.astype(np.float32)
    for axis in (1, 2):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        pieces = (np.take(padded, range(i, i + values.shape[axis]), axis) for i in range(len(weight)))
        values = sum(w * piece for w, piece in zip(weight, pieces, strict=True))
    return _pixels(values)


def noisy(frames: np.ndarray, rng: np.random.Generator, sigma: float = 10.0) -> np.ndarray:
    """Independent Gaussian noise on every value; ``sigma`` in grey levels."""
    return _pixels(frames + sigma * rng.standard_normal(frames.shape, dtype=np.float32))


def blurred_and_noisy(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur of 1 pixel, then noise of 10 grey levels."""
    return noisy(blurred(frames, rng), rng)


def halved(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames averaged to half the resolution and repeated to the old size."""
    t, h, w, c = frames.shape
    small = frames.reshape(t, h // 2, 2, w // 2, 2, c).astype(np.float32).mean((2, 4))
    return _pixels(small.repeat(2, axis=1).repeat(2, axis=2))


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "clean": lambda frames, rng: frames,
    "blur 1": blurred,
    "noise 10": noisy,
    "blur 1 + noise 10": blurred_and_noisy,
    "half resolution": halved,
    "noise 25": lambda frames, rng: noisy(frames, rng, 25.0),
}
