"""LPIPS of videos against their originals, by whatever network measures the distance of two pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from cogvideox.evaluation.fidelity import paired
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.video import Video


class Distance(Protocol):
    """How different pictures look; ``name`` says by which weights."""

    name: str

    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` twice -> one distance per picture."""


def lpips(videos: Iterable[Video], references: Iterable[Video], distance: Distance | None) -> Score:
    """Mean over frames of the distance to the original's frame (Zhang et al. 2018), whole frames, no resizing."""
    if distance is None:
        why = "needs VGG16 and LPIPS's heads (--lpips FOLDER)"
        return not_computed("lpips", why, better="lower")
    each = list(paired(videos, references, lambda a, b: float(np.mean(distance(a, b)))))
    protocol = "mean over frames, whole frames"
    return mean_score("lpips", each, better="lower", protocol=protocol, settings={"network": distance.name})
