"""The ground of a clip: grey of low contrast, smooth in the plain style, patterned and faintly tinted in the rich one.

It is a function of world coordinates, so that a camera pan moves it. No pattern repeats: cells have random lightness,
and smooth noise lies under all of them, so that a movement of the camera can always be read from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cogvideox.world.scene import PAN_TRAVEL

GROUND_MEAN = 95.0
GROUND_STD = 10.0
_OCTAVES = ((0.45, 0.7), (0.25, 0.7))  # cell (fraction of the side: at least 16 of 64 pixels), amplitude
_CELLS = 64  # along each side of the table of random lightness, which is read modulo
TINTS = ((1.0, 1.0, 1.0), (1.06, 1.0, 0.93), (0.94, 1.0, 1.05), (0.96, 1.04, 0.97), (1.04, 0.97, 1.02))
"""What the grey of a rich ground is multiplied by, per colour channel."""


def ground_video(seed: int, texture: str, camera: np.ndarray, size: int, tinted: bool = False) -> np.ndarray:
    """The ground, float32 ``[t, size, size, 3]``, seen from each camera position ``[t, 2]``."""
    moves = bool(np.any(camera))
    seen = camera if moves else camera[:1]
    rng = np.random.Generator(np.random.Philox(key=seed))
    total = _cloud(rng, seen, size)
    if texture != "cloud":
        total = 0.45 * total + 0.55 * _PATTERNS[texture](rng, *_world(seen, size), size)
    grey = np.clip(GROUND_MEAN + GROUND_STD * 1.9 * total, 40, 150)
    ground = grey[..., None].repeat(3, axis=-1)
    if tinted:
        ground *= np.array(TINTS[int(rng.integers(len(TINTS)))], np.float32)
    return ground if moves else np.repeat(ground, len(camera), axis=0)


def _cloud(rng: np.random.Generator, camera: np.ndarray, size: int) -> np.ndarray:
    """Smooth noise ``[t, size, size]`` float32."""
    total = np.zeros((1, size, size), np.float32)
    pixel = (np.arange(size) + 0.5) / size
    for cell, amplitude in _OCTAVES:
        knots = int(np.ceil((1 + 2 * PAN_TRAVEL) / cell)) + 4
        values = rng.standard_normal((knots, knots)).astype(np.float32) * amplitude
        across = _spline((camera[:, :1] + pixel + PAN_TRAVEL) / cell + 1, knots)  # [t, w, knots]
        down = _spline((camera[:, 1:] + pixel + PAN_TRAVEL) / cell + 1, knots)
        total = total + down @ values @ across.transpose(0, 2, 1)
    return total


def _spline(position: np.ndarray, knots: int) -> np.ndarray:
    """Weights ``[..., knots]`` of a cubic B-spline-like smooth bump at each knot."""
    distance = np.abs(position[..., None].astype(np.float32) - np.arange(knots, dtype=np.float32))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)


def _world(camera: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates x ``[t, 1, w]`` and y ``[t, h, 1]`` of the pixels seen, float32."""
    pixel = (np.arange(size) + 0.5) / size
    x, y = (camera[:, axis : axis + 1] + pixel for axis in (0, 1))
    return x.astype(np.float32)[:, None, :], y.astype(np.float32)[:, :, None]


def _lightness(rng: np.random.Generator) -> np.ndarray:
    """A table of random lightness, one per cell."""
    return rng.uniform(-1.4, 1.4, (_CELLS, _CELLS)).astype(np.float32)


def _joint(distance: np.ndarray, size: int) -> np.ndarray:
    """Darkness of the lines between cells, 2 of 128 pixels wide, by the distance from them in shares of the side."""
    return np.clip(0.5 + (0.006 - distance) * size, 0, 1) * 1.3


def _tiles(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Squares, upright or on a corner."""
    table, side, turn = _lightness(rng), rng.uniform(0.13, 0.2), rng.choice([0.0, np.pi / 4])
    shift = rng.random(2)
    across = (np.cos(turn) * x + np.sin(turn) * y) / side + shift[0]
    down = (np.cos(turn) * y - np.sin(turn) * x) / side + shift[1]
    return _cells(table, across, down, (side, side), size)


def _bricks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Rows of oblongs, every other one shifted by half."""
    table, high = _lightness(rng), rng.uniform(0.08, 0.11)
    shift = rng.random(2)
    down = y / high + shift[1] + 0 * x
    across = x / (2.2 * high) + shift[0] + 0.5 * (np.floor(down) % 2)
    return _cells(table, across, down, (2.2 * high, high), size)


def _cells(
    table: np.ndarray, across: np.ndarray, down: np.ndarray, sides: tuple[float, float], size: int
) -> np.ndarray:
    """Cells of random lightness between joints; ``across`` and ``down`` count cells of the given ``sides``."""
    column, row = np.floor(across), np.floor(down)
    near = np.minimum(
        sides[0] * (0.5 - np.abs(across - column - 0.5)), sides[1] * (0.5 - np.abs(down - row - 0.5))
    )
    joint = _joint(near, size)
    return (1 - joint) * table[row.astype(int) % _CELLS, column.astype(int) % _CELLS] - joint


def _stones(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Paving of irregular stones: to which of scattered points is it nearest?"""
    table, side = _lightness(rng), rng.uniform(0.14, 0.2)
    points = rng.uniform(0.15, 0.85, (2, _CELLS, _CELLS)).astype(np.float32)
    x, y = x / side + 0 * y, y / side + 0 * x
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    nearest = np.full(x.shape, 9.0, np.float32)
    second, light = nearest.copy(), np.zeros_like(nearest)
    for step_x in (-1, 0, 1):
        for step_y in (-1, 0, 1):
            cell = (row + step_y) % _CELLS, (column + step_x) % _CELLS
            far = np.hypot(column + step_x + points[0][cell] - x, row + step_y + points[1][cell] - y)
            closer = far < nearest
            second = np.where(closer, nearest, np.minimum(second, far))
            light = np.where(closer, table[cell], light)
            nearest = np.where(closer, far, nearest)
    joint = _joint(side * (second - nearest) / 2, size)
    return (1 - joint) * light - joint


def _waves(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Ripples, bent by two slow waves across them."""
    turn, phases = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 3)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    bent = 0.06 * np.sin(7 * along + phases[0]) + 0.03 * np.sin(17 * along + phases[1])
    return 0.9 * np.sin(2 * np.pi * (across + bent) / rng.uniform(0.11, 0.16) + phases[2])


Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray, int], np.ndarray]
_PATTERNS: dict[str, Pattern] = {"tiles": _tiles, "bricks": _bricks, "stones": _stones, "waves": _waves}
