"""Canny edges of frames: what a control network that follows edges is shown."""

from __future__ import annotations

import numpy as np

from cogvideox.perception.flow import opencv

LOW, HIGH = 100, 200
"""Gradients at which an edge goes on and begins, of 8-bit pixels: those of controlnet_aux, with which the public
ControlNets were trained."""


def canny(frames: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """White edges on black, uint8 [t, h, w, 3], of frames like that. Raises DependencyError without OpenCV."""
    cv2 = opencv()
    edges = [cv2.Canny(np.ascontiguousarray(frame), low, high) for frame in frames]
    return np.repeat(np.stack(edges)[..., None], 3, axis=3)
