"""What a scene gives a model to go by beside its caption: where its things are, and videos to follow.

A model that follows a control video is shown white marks on black: the silhouettes of the things, or dots on their
paths, which say where and when and nothing else.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from cogvideox.world.rendering import camera_path, clip_times, coverage, object_path
from cogvideox.world.scene import Scene
from cogvideox.world.style import get_style

Guide = Literal["path", "silhouette"]
"""What a control video of a scene shows: a dot at each thing's centre, or the silhouettes of the things."""
GUIDES: tuple[str, ...] = get_args(Guide)

DOT = 0.06
"""Radius of a dot, in shares of the side: 4 of 64 pixels, half a latent."""


def silhouettes(scene: Scene, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """Where the things of a scene are, bool ``[frames, size, size]``; None: as large and long as clips of its style."""
    return coverage(scene, size, frames) > 0.5


def paths(scene: Scene, frames: int | None = None) -> np.ndarray:
    """The centres (x, y) of a scene's things as they are seen, float ``[things, frames, 2]`` in shares of the side."""
    time = clip_times(get_style(scene.style).frames if frames is None else frames)
    camera = camera_path(scene, time)
    return np.stack([object_path(scene, number, time) - camera for number in range(scene.count)])


def dots(path: np.ndarray, size: int = 64) -> np.ndarray:
    """White dots on black, uint8 ``[frames, size, size, 3]``, at centres ``[things, frames, 2]`` (shares of a side)."""
    pixel = (np.arange(size) + 0.5) / size
    far_x, far_y = pixel - path[..., :1], pixel - path[..., 1:]  # [things, frames, size]
    distance = np.hypot(far_x[:, :, None, :], far_y[:, :, :, None]).min(axis=0)
    return _white(np.clip(0.5 + (DOT - distance) * size, 0, 1))


def guide_video(scene: Scene, guide: Guide, size: int | None = None, frames: int | None = None) -> np.ndarray:
    """The control video of a scene, uint8 ``[frames, size, size, 3]``."""
    if guide == "path":
        return dots(paths(scene, frames), get_style(scene.style).size if size is None else size)
    return _white(coverage(scene, size, frames))


def _white(light: np.ndarray) -> np.ndarray:
    """Numbers in 0..1 ``[t, h, w]`` as a grey video."""
    return np.rint(255 * light).astype(np.uint8)[..., None].repeat(3, axis=-1)
