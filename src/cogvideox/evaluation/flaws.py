"""Known flaws of growing strength, to ask a metric whether it notices them."""

from __future__ import annotations

import numpy as np

from cogvideox.errors import InputError, suggest
from cogvideox.world.validate import blurred, noisy

FLAWS = ("blur", "noise", "shuffle", "freeze")
MOST_BLUR = 3.0  # pixels at a height of 64
MOST_NOISE = 40.0  # grey levels


def spoil(frames: np.ndarray, flaw: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """``frames`` uint8 [t, h, w, 3] with ``amount`` (0: none, 1: most) of a flaw. Raises InputError.

    blur: Gaussian, up to 3 pixels at a height of 64. noise: up to 40 grey levels. shuffle: so large a share of the
    frames changes places. freeze: from so early on the clip stands still.
    """
    if flaw not in FLAWS:
        raise InputError(f"flaw {flaw!r}: not one of {', '.join(FLAWS)}{suggest(flaw, FLAWS)}")
    if amount <= 0:
        return frames
    if flaw == "blur":
        return blurred(frames, rng, amount * MOST_BLUR * frames.shape[1] / 64)
    if flaw == "noise":
        return noisy(frames, rng, amount * MOST_NOISE)
    if flaw == "shuffle":
        return _shuffled(frames, amount, rng)
    moving = max(1, round(len(frames) * (1 - amount)))
    return frames[np.minimum(np.arange(len(frames)), moving - 1)]


def _shuffled(frames: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(len(frames))[: round(amount * len(frames))]
    order = np.arange(len(frames))
    order[np.sort(chosen)] = rng.permutation(chosen)
    return frames[order]
