"""Scene -> frames. Shapes are signed distances, so edges are anti-aliased without supersampling.

Objects have flat colours; the ground is fixed in world coordinates, so that a camera pan moves it. A clip of 17
frames of 64x64 takes a few milliseconds on one core, one of 33 frames of 128x128 about 25.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.grounds import ground_video
from cogvideox.world.scene import DIRECTIONS, GROWTH, PAN_TRAVEL, SPIN_DEGREES, Scene
from cogvideox.world.style import COLOURS, get_style

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


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)  # from the nearest tip
    far = np.hypot(x, y)
    tip, notch = 1.55, 0.69  # the edge goes from one to the other
    across, down = notch * math.sin(fifth / 2), notch * math.cos(fifth / 2) - tip
    return (-down * far * np.sin(angle) + across * (far * np.cos(angle) - tip)) / math.hypot(across, down)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), y - 0.294  # the origin is the centre of mass, here and below
    point = (x + np.abs(y)) * 0.7071068 - 0.6635
    return np.minimum(point, np.hypot(x - 0.469, y + 0.469) - 0.6635)


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x - 0.485, y) - 1.36, 1.02 - np.hypot(x - 1.165, y))


def _cap(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y - 0.25) - 1.25, y - 0.25)


def _stem(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - 0.48, np.abs(y - 0.7) - 0.5)


def _body(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x - 0.346, np.abs(y) + 0.55) - 1.3


def _tail(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(-x - 1.434, 0.7071068 * (np.abs(y) + x + 0.534))


DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring,
    "star": _star, "heart": _heart, "moon": _moon,
    "mushroom": lambda x, y: np.minimum(_cap(x, y), _stem(x, y)),
    "fish": lambda x, y: np.minimum(_body(x, y), _tail(x, y)),
}  # fmt: skip
"""Signed distance to each shape of radius 1, negative inside; of about the same area; y grows downwards."""

ACCENT_DISTANCE = {
    "mushroom": lambda x, y: np.maximum(_stem(x, y), -_cap(x, y)),
    "fish": lambda x, y: np.maximum(_tail(x, y), -_body(x, y)),
}
"""Signed distance to the accent of a shape: what of it has a colour of its own."""


def render(scene: Scene, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """The clip of a scene, uint8 ``[frames, size, size, 3]``, by default as large and long as clips of its style are
    (plain: 17 frames of 64x64); InputError for a size below 16 or no frame."""
    size, frames = _measures(scene, size, frames)
    if size < 16 or frames < 1:
        raise InputError(
            f"size {size}, frames {frames}: a clip has at least 16 pixels a side and 1 frame; ask for more"
        )
    time = clip_times(frames)
    camera = camera_path(scene, time)
    clip = ground_video(scene.ground, scene.texture, camera, size, tinted=scene.style != "plain")
    for layer in _layers(scene):
        _draw(clip, scene, layer, object_path(scene, layer.thing, time) - camera, time)
    return np.rint(clip, out=clip).astype(np.uint8)


def coverage(scene: Scene, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """How much of each pixel the things of a scene cover, float32 ``[frames, size, size]`` in 0..1."""
    return thing_coverage(scene, size, frames).max(axis=0)


def thing_coverage(scene: Scene, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """How much of each pixel each thing of a scene covers, as far as it is seen, float32
    ``[things, frames, size, size]`` in 0..1."""
    whole = [cover for layer, cover in _covers(scene, size, frames) if not layer.accent]
    if scene.front == "first":
        whole[1] = whole[1] * (1 - whole[0])
    if scene.front == "second":
        whole[0] = whole[0] * (1 - whole[1])
    return np.stack(whole)


def accent_coverage(scene: Scene, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """How much of each pixel the accent of each thing covers, shaped as ``thing_coverage``;
    zeros where there is none."""
    accents = [cover for layer, cover in _covers(scene, size, frames) if layer.accent]
    return np.stack(accents) if accents else np.zeros_like(thing_coverage(scene, size, frames))


class _Layer(NamedTuple):
    """What is painted in one colour: a whole thing (its number in the scene), or its accent."""

    thing: int
    shape: str
    colour: str
    accent: bool


def _layers(scene: Scene) -> list[_Layer]:
    """What is painted, from the back to the front."""
    layers = []
    for number, (colour, shape) in enumerate(scene.things):
        layers.append(_Layer(number, shape, colour, False))
        if scene.accent is not None:
            layers.append(_Layer(number, shape, scene.accent, True))
    return layers[::-1] if scene.front == "first" else layers


def _covers(scene: Scene, size: int | None, frames: int | None) -> Iterator[tuple[_Layer, np.ndarray]]:
    """Each layer, in the order of the things, and how much of each pixel it covers."""
    size, frames = _measures(scene, size, frames)
    time = clip_times(frames)
    camera, whole = camera_path(scene, time), slice(0, size)
    for layer in sorted(_layers(scene)):
        path = object_path(scene, layer.thing, time) - camera
        yield layer, _coverage(scene, layer, path, _radius(scene, time), time, whole, whole, size)


def _measures(scene: Scene, size: int | None, frames: int | None) -> tuple[int, int]:
    style = get_style(scene.style)
    return style.size if size is None else size, style.frames if frames is None else frames


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


def object_path(scene: Scene, number: int, time: np.ndarray) -> np.ndarray:
    """Positions ``[t, 2]`` of one of a scene's objects, by its number, in world coordinates."""
    path = np.broadcast_to(np.array(scene.centres[number]), (len(time), 2))
    direction = scene.directions[number]
    if direction == "none":
        return path
    return path + (time - 0.5)[:, None] * scene.travel * np.array(DIRECTIONS[direction])


def _draw(clip: np.ndarray, scene: Scene, layer: _Layer, path: np.ndarray, time: np.ndarray) -> None:
    """Paint one layer into the clip, inside the box it ever touches."""
    size = clip.shape[1]
    radius = _radius(scene, time)
    reach = 1.6 * radius.max() + 2 / size
    (left, top), (right, bottom) = (path.min(0) - reach) * size, (path.max(0) + reach) * size
    xs = slice(max(0, int(left)), min(size, int(np.ceil(right))))
    ys = slice(max(0, int(top)), min(size, int(np.ceil(bottom))))
    alpha = _coverage(scene, layer, path, radius, time, xs, ys, size)[..., None]
    box = clip[:, ys, xs]
    box += alpha * (np.array(COLOURS[layer.colour], np.float32) - box)


def _radius(scene: Scene, time: np.ndarray) -> np.ndarray:
    """The radius of a scene's things at each time, in shares of the side."""
    return scene.radius * (1 + (GROWTH.get(scene.change, 1.0) - 1) * time)


def _coverage(
    scene: Scene,
    layer: _Layer,
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
    if layer.shape == "fish" and scene.direction == "left":
        x = -x  # it looks where it swims
    distance = (ACCENT_DISTANCE if layer.accent else DISTANCE)[layer.shape](x, y)
    if scene.into is not None:
        eased = morph_progress(time).astype(np.float32)[:, None, None]
        distance = distance + eased * (DISTANCE[scene.into](x, y) - distance)
    return np.clip(0.5 - distance * (radius * size).astype(np.float32)[:, None, None], 0, 1)
