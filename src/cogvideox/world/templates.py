"""Recognises shapes: soft masks of things against blurred, rotated templates of the shapes of a style.

Centre and scale of a thing come from its first moment and the square root of its mass, which blur hardly changes; there
are blurred templates too. Hard masks and overlap scores are clearly worse on blurred frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cogvideox.world.foreground import Foreground, Thing
from cogvideox.world.rendering import DISTANCE
from cogvideox.world.style import get_style

PERIOD = {
    "square": 90.0, "triangle": 120.0, "cross": 90.0, "star": 72.0, "heart": 360.0, "moon": 360.0, "mushroom": 360.0,
    "fish": 360.0,
}  # fmt: skip
"""Degrees of rotation after which a shape looks the same; other shapes have no visible rotation."""

_GRID = 28
_REACH = 1.15  # half the width of a patch, in square roots of the mass
_ANGLES = 12  # in a period; twice as many in a whole turn
_BLURS = (0.0, 0.08, 0.16, 0.26, 0.38)  # standard deviations, in square roots of the area


@dataclass(frozen=True)
class Likeness:
    """How similar n things are to each of the shapes of a style.

    ``score`` float ``[n, shapes]``: correlation with the best template of each shape, -1 to 1, in the order of
    ``shapes``. ``angle`` float ``[n, shapes]``: that template's rotation in degrees (0 for shapes whose rotation cannot
    be seen).
    """

    score: np.ndarray
    angle: np.ndarray
    shapes: tuple[str, ...]


@dataclass(frozen=True)
class _Templates:
    patches: np.ndarray  # [templates, 784], zero mean, unit norm
    shape: np.ndarray  # [templates] index into SHAPES
    angle: np.ndarray  # [templates] degrees


def compare(foreground: Foreground, things: list[Thing], style: str = "plain") -> Likeness:
    """Compare things with all templates of a style."""
    shapes = get_style(style).shapes
    if not things:
        return Likeness(np.zeros((0, len(shapes))), np.zeros((0, len(shapes))), shapes)
    known = _templates(shapes)
    every = _normalise(_cut_out(foreground, things).reshape(len(things), -1)) @ known.patches.T
    score, angle = [], []
    for number in range(len(shapes)):
        of_shape = np.flatnonzero(known.shape == number)
        best = of_shape[every[:, of_shape].argmax(1)]
        score.append(every[np.arange(len(things)), best])
        angle.append(known.angle[best])
    return Likeness(np.stack(score, 1), np.stack(angle, 1), shapes)


def _cut_out(foreground: Foreground, things: list[Thing]) -> np.ndarray:
    """Patches ``[n, 28, 28]``: each thing alone, centred, scaled to unit mass, resampled bilinearly."""
    step = np.linspace(-_REACH, _REACH, _GRID)
    scale = np.sqrt([thing.mass for thing in things])[:, None]
    centre = np.array([thing.centre for thing in things])
    frame = np.array([thing.frame for thing in things])[:, None, None]
    label = np.array([thing.label for thing in things])[:, None, None]
    t, h, w = foreground.alpha.shape
    x = np.clip(centre[:, :1] + step * scale + 1, 0, w + 0.999)
    y = np.clip(centre[:, 1:] + step * scale + 1, 0, h + 0.999)
    column, row = x.astype(int)[:, None, :], y.astype(int)[:, :, None]
    right, down = (x[:, None, :] - column), (y[:, :, None] - row)
    pad = ((0, 0), (1, 1), (1, 1))
    alpha, labels = np.pad(foreground.alpha, pad), np.pad(foreground.labels, pad)

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return alpha[frame, y, x] * (labels[frame, y, x] == label)

    above = at(row, column) * (1 - right) + at(row, column + 1) * right
    below = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right
    return above * (1 - down) + below * down


def _normalise(patches: np.ndarray) -> np.ndarray:
    patches = patches - patches.mean(1, keepdims=True)
    return patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-9)


@cache
def _templates(names: tuple[str, ...]) -> _Templates:
    patches, shapes, angles = [], [], []
    for number, shape in enumerate(names):
        for angle in angles_of(shape):
            sharp = _picture(shape, float(angle))
            for blur in _BLURS:
                patches.append(_blurred(sharp, blur).ravel())
                shapes.append(number)
                angles.append(float(angle))
    return _Templates(_normalise(np.array(patches)), np.array(shapes), np.array(angles))


def angles_of(shape: str) -> np.ndarray:
    """Degrees of rotation at which a shape looks different, evenly over its period."""
    period = PERIOD.get(shape, 0.0)
    number = (2 * _ANGLES if period == 360 else _ANGLES) if period else 1
    return np.arange(number) * period / number


def _picture(shape: str, angle: float) -> np.ndarray:
    """A rotated shape of unit area as a soft mask ``[84, 84]``, three patches wide."""
    step = 2 * _REACH / (_GRID - 1)
    line = (np.arange(3 * _GRID) - (3 * _GRID - 1) / 2) * step
    fine = np.linspace(-2, 2, 801)
    root_area = np.sqrt((DISTANCE[shape](fine, fine[:, None]) < 0).mean() * 16)
    turn = np.deg2rad(angle)
    x, y = line * root_area, line[:, None] * root_area
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.clip(0.5 - DISTANCE[shape](x, y) / (root_area * step), 0, 1)


def _blurred(picture: np.ndarray, blur: float) -> np.ndarray:
    """The middle third ``[28, 28]`` of a picture after a Gaussian blur."""
    middle = slice(_GRID, 2 * _GRID)
    if blur == 0:
        return picture[middle, middle]
    position = np.arange(len(picture)) * 2 * _REACH / (_GRID - 1)
    weight = np.exp(-0.5 * ((position[:, None] - position) / blur) ** 2)
    weight /= weight.sum(1, keepdims=True)
    return (weight @ picture @ weight.T)[middle, middle]
