"""Optical flow: how far each pixel moves from one frame to the next."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cogvideox.errors import DependencyError


def opencv():
    """OpenCV, on one thread. Raises DependencyError when it is not installed."""
    try:
        import cv2
    except ImportError:
        raise DependencyError("opencv is not installed; install cogvideox[data]") from None
    cv2.setNumThreads(1)  # work is spread over processes
    return cv2


class Flow(Protocol):
    """Two grey pictures to a field of movements."""

    name: str

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """``uint8 [h, w]`` twice -> ``float32 [h, w, 2]``: pixels to the right and down."""


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016), as OpenCV ships it: no weights, a few milliseconds a pair."""

    name = "opencv-dis-fast"
    least = 24  # pixels a side; below it the pyramid of DIS has no level

    def __init__(self) -> None:
        self._cv2 = opencv()
        self._dis = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """See Flow; pictures below 24 pixels a side are enlarged for the search."""
        short = min(before.shape)
        if short >= self.least:
            return self._dis.calc(before, after, None)
        grow = -(-self.least // short)
        size = (before.shape[1] * grow, before.shape[0] * grow)
        big = [self._cv2.resize(p, size, interpolation=self._cv2.INTER_LINEAR) for p in (before, after)]
        return self._dis.calc(*big, None)[::grow, ::grow] / grow
