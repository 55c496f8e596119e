"""Masks drawn at random over a clip: what a model that inpaints learns to make anew.

A mask is bool [t, h, w], true where the clip is hidden. Boxes, moving boxes and silhouettes are holes in a video;
"outside" is all but a box; the others hide whole frames, all but those they are named after.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from cogvideox.errors import ConfigError
from cogvideox.video.mask import boxes, grown

Mask = Literal[
    "box", "moving-box", "silhouette", "outside", "first", "last", "ends", "beginning", "keyframes"
]
MASKS: tuple[str, ...] = get_args(Mask)
HOLES: Mapping[Mask, float] = {"moving-box": 0.4, "box": 0.2, "outside": 0.2, "beginning": 0.1, "ends": 0.1}
"""The mixture for clips of a folder, where nobody says where their things are."""
WORLD_HOLES: Mapping[Mask, float] = {"silhouette": 0.5, **{name: share / 2 for name, share in HOLES.items()}}
KEYFRAMES: Mapping[Mask, float] = {"ends": 0.4, "last": 0.2, "first": 0.1, "keyframes": 0.3}
"""The mixture for a model that is given pictures at their frames."""

MOST_KEYFRAMES = 4


def check_shares(shares: Mapping[Mask, float]) -> None:
    """Raise ConfigError for shares below zero, or of which none is above."""
    if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ConfigError(
            f"masks {dict(shares)}: give shares of at least 0, one above it, for some of {', '.join(MASKS)}"
        )


def draw_mask(
    shares: Mapping[Mask, float],
    shape: tuple[int, int, int],
    draw: random.Random,
    things: np.ndarray | None = None,
) -> np.ndarray:
    """A mask of ``shape`` (frames, height, width), of a kind drawn with these shares; true where the clip is hidden.

    ``things``: where the clip's things are, bool of that shape, for "silhouette". Raises ConfigError where it is needed
    and not known.
    """
    kind = draw.choices(list(shares), list(shares.values()))[0]
    if kind == "silhouette":
        if things is None:
            raise ConfigError(
                f"masks silhouette: where the things of a clip are is known in the tiny world alone; take others of "
                f"{', '.join(MASKS)}"
            )
        return _around(things, draw)
    if kind in ("box", "moving-box"):
        return _box(shape, draw, (0.25, 0.75), moving=kind == "moving-box")
    if kind == "outside":
        return ~_box(shape, draw, (0.4, 0.8))
    hidden = np.ones(shape, bool)
    hidden[_known_frames(kind, shape[0], draw)] = False
    return hidden


def _known_frames(kind: Mask, frames: int, draw: random.Random) -> list[int]:
    """The frames that are not hidden; of a picture none."""
    last = frames - 1
    if not last:
        return []
    if kind == "beginning":
        return list(range(draw.randint(1, max(1, frames // 2))))
    if kind == "keyframes":
        return draw.sample(range(frames), min(draw.randint(1, MOST_KEYFRAMES), frames))
    return {"first": [0], "last": [last]}.get(kind, [0, last])


def _box(
    shape: tuple[int, int, int], draw: random.Random, sides: tuple[float, float], moving: bool = False
) -> np.ndarray:
    """True inside a box whose sides are shares between ``sides`` of the frame's, at rest or on a straight way."""
    frames, height, width = shape
    high, wide = (max(1, round(side * draw.uniform(*sides))) for side in (height, width))
    begin, end = ((draw.uniform(0, height - high), draw.uniform(0, width - wide)) for _ in range(2))
    inside = np.zeros(shape, bool)
    for frame in range(frames):
        along = frame / max(1, frames - 1) if moving else 0.0
        top, left = (round(a + along * (b - a)) for a, b in zip(begin, end, strict=True))
        inside[frame, top : top + high, left : left + wide] = True
    return inside


def _around(things: np.ndarray, draw: random.Random) -> np.ndarray:
    """Things with a margin: their boxes frame by frame, one box for all frames, or their silhouettes grown.

    Boxes do not tell the shape that was there, so that another one may be asked for.
    """
    margin = round(draw.uniform(0.03, 0.15) * min(things.shape[1:]))
    how = draw.random()
    if how < 0.25:
        return grown(things, margin)
    if how < 0.75:
        return grown(boxes(things), margin)
    at_any_time = np.logical_or.reduce(things, axis=0, keepdims=True)
    return grown(boxes(at_any_time).repeat(len(things), 0), margin)
