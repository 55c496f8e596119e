"""What effects share: painting on every frame, scaling, moving, coding again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cogvideox.perception.flow import opencv

Effect = Callable[[np.ndarray, np.random.Generator, np.ndarray], np.ndarray]


def shape_of(frames: np.ndarray) -> tuple[int, int, int]:
    """Frames, rows, columns."""
    return frames.shape[0], frames.shape[1], frames.shape[2]


def painted(frames: np.ndarray, paint: Callable[[Image.Image, int], None]) -> np.ndarray:
    """Every frame painted upon."""
    done = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        paint(image, number)
        done.append(np.asarray(image))
    return np.stack(done)


def mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """``share`` [t] or [t, h, w] of the second clip."""
    share = share.reshape(share.shape + (1,) * (4 - share.ndim)).astype(np.float32)
    return (first * (1 - share) + second * share + 0.5).astype(np.uint8)


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every frame scaled."""
    cv2 = opencv()
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


def moved(frame: np.ndarray, way: Sequence[float], zoom: float) -> np.ndarray:
    """A frame moved by ``way`` pixels to the right and down, and enlarged, its edges mirrored."""
    x, y = way
    cv2 = opencv()
    h, w = frame.shape[:2]
    matrix = np.array([[zoom, 0, (1 - zoom) * w / 2 + x], [0, zoom, (1 - zoom) * h / 2 + y]], np.float32)
    return cv2.warpAffine(frame, matrix, (w, h), borderMode=cv2.BORDER_REFLECT)


def recoded(frames: np.ndarray, quality: int) -> np.ndarray:
    """Every frame through JPEG."""
    done = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        done.append(np.asarray(Image.open(buffer)))
    return np.stack(done)
