"""Edges of pictures as a control video shows them: white lines on black."""

from __future__ import annotations

import numpy as np

from cogvideox.perception.flow import opencv

LOW, HIGH = 100, 200
"""Thresholds of Canny's detector that the published control models were trained with."""


def canny(frames: np.ndarray, low: int = LOW, high: int = HIGH) -> np.ndarray:
    """Canny's edges of ``uint8 [t, h, w, 3]``, of the same shape. Raises DependencyError without OpenCV."""
    cv2 = opencv()
    edges = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), low, high) for frame in frames]
    return np.stack(edges)[..., None].repeat(3, axis=-1)
