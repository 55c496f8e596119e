"""Scene -> frames. Shapes are signed distances, so edges are anti-aliased without supersampling.

The background is grey value noise of low contrast and low frequency (two octaves), fixed in world coordinates
so that a camera pan moves it; objects have flat colours. A clip of 17 frames of 64x64 takes a few
milliseconds on one core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.scene import COLOURS, DIRECTIONS, GROWTH, PAN_TRAVEL, SPIN_DEGREES, TRAVEL, Scene

GROUND_MEAN = 95.0
GROUND_STD = 10.0
_OCTAVES = ((0.45, 0.7), (0.25, 0.7))  # cell (fraction of the side: at least 16 of 64 pixels), amplitude
_MORPH = (0.35, 0.65)  # a transformation happens between these times


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1.0


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.886


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, 0.8660254 * np.abs(x) - 0.5 * y) - 0.725


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    longer, shorter = np.maximum(x, y), np.minimum(x, y)
    return np.maximum(longer - 1.15, shorter - 0.42)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.825) - 0.275


DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring,
}  # fmt: skip
"""Signed distance to each shape of radius 1, negative inside; of about the same area; y grows downwards."""


def render(scene: Scene, size: int = 64, frames: int = 17) -> np.ndarray:
    """The clip of a scene, uint8 ``[frames, size, size, 3]``; InputError for a size below 16 or no frame."""
    if size < 16 or frames < 1:
        raise InputError(
            f"size {size}, frames {frames}: a clip has at least 16 pixels a side and 1 frame; ask for more"
        )
    time = clip_times(frames)
    camera = camera_path(scene, time)
    clip = _ground(scene.ground, camera, size)[..., None].repeat(3, axis=-1)  # [t, h, w, 3]
    for centre, (colour, shape) in zip(scene.centres, scene.things, strict=True):
        _draw(clip, scene, shape, object_path(scene, centre, time) - camera, time, colour)
    return np.rint(clip, out=clip).astype(np.uint8)


def coverage(scene: Scene, size: int = 64, frames: int = 17) -> np.ndarray:
    """How much of each pixel the things of a scene cover, float32 ``[frames, size, size]`` in 0..1."""
    return thing_coverage(scene, size, frames).max(axis=0)


def thing_coverage(scene: Scene, size: int = 64, frames: int = 17) -> np.ndarray:
    """How much of each pixel each thing of a scene covers, float32 ``[things, frames, size, size]`` in 0..1."""
    time = clip_times(frames)
    camera, whole = camera_path(scene, time), slice(0, size)
    radius = _radius(scene, time)
    each = [
        _coverage(scene, shape, object_path(scene, centre, time) - camera, radius, time, whole, whole, size)
        for centre, (_, shape) in zip(scene.centres, scene.things, strict=True)
    ]
    return np.stack(each)


def morph_progress(time: np.ndarray) -> np.ndarray:
    """How far a transformation is at each time, from 0 (the first shape) to 1 (what it turns into)."""
    linear = np.clip((time - _MORPH[0]) / (_MORPH[1] - _MORPH[0]), 0, 1)
    return linear * linear * (3 - 2 * linear)


def clip_times(frames: int) -> np.ndarray:
    """The time of each frame of a clip: from 0 to 1, or 0 for a single one."""
    return np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)


def camera_path(scene: Scene, time: np.ndarray) -> np.ndarray:
    """Where the camera stands ``[t, 2]``, in world coordinates; it passes 0 at mid-clip."""
    if scene.camera == "static":
        return np.zeros((len(time), 2))
    return (time - 0.5)[:, None] * PAN_TRAVEL * np.array(DIRECTIONS[scene.camera])


def object_path(scene: Scene, centre: tuple[float, float], time: np.ndarray) -> np.ndarray:
    """Positions ``[t, 2]`` of the object whose centre at mid-clip is given, in world coordinates."""
    path = np.broadcast_to(np.array(centre), (len(time), 2))
    if scene.direction == "none":
        return path
    return path + (time - 0.5)[:, None] * TRAVEL[scene.speed] * np.array(DIRECTIONS[scene.direction])


def _draw(
    clip: np.ndarray, scene: Scene, shape: str, path: np.ndarray, time: np.ndarray, colour: str
) -> None:
    """Paint one object into the clip, inside the box it ever touches."""
    size = clip.shape[1]
    radius = _radius(scene, time)
    reach = 1.5 * radius.max() + 2 / size
    (left, top), (right, bottom) = (path.min(0) - reach) * size, (path.max(0) + reach) * size
    xs = slice(max(0, int(left)), min(size, int(np.ceil(right))))
    ys = slice(max(0, int(top)), min(size, int(np.ceil(bottom))))
    alpha = _coverage(scene, shape, path, radius, time, xs, ys, size)[..., None]
    box = clip[:, ys, xs]
    box += alpha * (np.array(COLOURS[colour], np.float32) - box)


def _radius(scene: Scene, time: np.ndarray) -> np.ndarray:
    """The radius of a scene's things at each time, in shares of the side."""
    return scene.radius * (1 + (GROWTH.get(scene.change, 1.0) - 1) * time)


def _coverage(
    scene: Scene,
    shape: str,
    path: np.ndarray,
    radius: np.ndarray,
    time: np.ndarray,
    xs: slice,
    ys: slice,
    size: int,
) -> np.ndarray:
    """How much of each pixel the object covers, float32 ``[t, h, w]`` in 0..1."""
    scale = (1 / radius)[:, None].astype(np.float32)
    x = ((np.arange(xs.start, xs.stop) + 0.5) / size - path[:, :1]).astype(np.float32) * scale  # [t, w]
    y = ((np.arange(ys.start, ys.stop) + 0.5) / size - path[:, 1:]).astype(np.float32) * scale  # [t, h]
    x, y = x[:, None, :], y[:, :, None]
    if scene.change == "rotate":
        angle = np.deg2rad(SPIN_DEGREES * time).astype(np.float32)[:, None, None]
        x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    distance = DISTANCE[shape](x, y)
    if scene.into is not None:
        eased = morph_progress(time).astype(np.float32)[:, None, None]
        distance = distance + eased * (DISTANCE[scene.into](x, y) - distance)
    return np.clip(0.5 - distance * (radius * size).astype(np.float32)[:, None, None], 0, 1)


def _ground(seed: int, camera: np.ndarray, size: int) -> np.ndarray:
    """Grey background ``[t, size, size]`` float32: smooth noise in world coordinates, seen from each camera
    position."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    total = np.zeros((1, size, size), np.float32)
    pixel = (np.arange(size) + 0.5) / size
    moves = bool(np.any(camera))
    seen = camera if moves else camera[:1]
    for cell, amplitude in _OCTAVES:
        knots = int(np.ceil((1 + 2 * PAN_TRAVEL) / cell)) + 4
        values = rng.standard_normal((knots, knots)).astype(np.float32) * amplitude
        across = _spline((seen[:, :1] + pixel + PAN_TRAVEL) / cell + 1, knots)  # [t, w, knots]
        down = _spline((seen[:, 1:] + pixel + PAN_TRAVEL) / cell + 1, knots)
        total = total + down @ values @ across.transpose(0, 2, 1)
    ground = np.clip(GROUND_MEAN + GROUND_STD * 1.9 * total, 40, 150)
    return ground if moves else np.repeat(ground, len(camera), axis=0)


def _spline(position: np.ndarray, knots: int) -> np.ndarray:
    """Weights ``[..., knots]`` of a cubic B-spline-like smooth bump at each knot."""
    distance = np.abs(position[..., None].astype(np.float32) - np.arange(knots, dtype=np.float32))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)
