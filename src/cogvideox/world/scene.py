"""What happens in one clip of the world of moving shapes, as a frozen value, and how such values are drawn.

Lengths are fractions of the frame's side, y grows downwards, angles are degrees clockwise, time runs from 0
(first frame) to 1 (last frame). One scene tells one story (its tier): a single shape moves, grows or shrinks,
rotates, turns into another shape; there are one to three equal shapes, or two that differ in colour and in
shape; or the camera pans over a resting shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cogvideox.errors import InputError, suggest

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 45),
    "orange": (245, 140, 30),
    "yellow": (235, 215, 50),
    "green": (45, 165, 65),
    "cyan": (60, 205, 215),
    "blue": (45, 75, 215),
    "purple": (150, 60, 190),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
TURNING_SHAPES = ("square", "triangle", "cross")  # a rotating circle or ring cannot be seen to rotate
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TRAVEL: dict[str, float] = {"slow": 0.20, "normal": 0.35, "fast": 0.50}
PAN_TRAVEL = 0.35
GROWTH: dict[str, float] = {"grow": 1.8, "shrink": 0.5}
SPIN_DEGREES = 120.0
RELATIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
"""How the first of two things stands to the second, and the way from the second to the first."""
SPLITS = ("train", "held_out")

TIERS: dict[str, float] = {
    "motion": 0.50, "size": 0.12, "rotate": 0.08, "transform": 0.10, "count": 0.10, "pan": 0.10, "pair": 0.0,
}  # fmt: skip
"""The tiers and the share of scenes each one has; two different things are shown only where they are asked for."""

HELD_OUT_PAIRS = frozenset([
    ("red", "square"), ("orange", "cross"), ("yellow", "circle"), ("green", "triangle"), ("cyan", "ring"),
    ("blue", "square"), ("purple", "cross"),
])  # fmt: skip
"""(colour, shape) pairs that no training clip shows, at its beginning or at its end."""

# Half the width, the height above and the height below the centre, for radius 1 (see rendering.py).
_EXTENT = {
    "circle": (1.0, 1.0, 1.0),
    "square": (0.89, 0.89, 0.89),
    "triangle": (1.26, 1.45, 0.73),
    "cross": (1.15, 1.15, 1.15),
    "ring": (1.1, 1.1, 1.1),
}
_TURNING_EXTENT = (1.45, 1.45, 1.45)
_MARGIN = 0.02
_APART = 0.22  # of the side: how far each of two things is from the middle


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip's truth. ``centres``: (x, y) of its objects at mid-clip, in world coordinates.

    They are equal, unless there is a ``second`` (colour, shape), to which the first stands in ``relation``, as far as
    captions tell.
    """

    tier: str
    colour: str
    shape: str
    radius: float
    centres: tuple[tuple[float, float], ...]
    direction: str = "none"
    speed: str = "normal"
    change: str = "none"
    into: str | None = None
    camera: str = "static"
    ground: int = 0
    second: tuple[str, str] | None = None
    relation: str = "none"

    @property
    def things(self) -> tuple[tuple[str, str], ...]:
        """(colour, shape) of each object, at the beginning."""
        first = (self.colour, self.shape)
        return (first,) * len(self.centres) if self.second is None else (first, self.second)

    @property
    def count(self) -> int:
        """How many objects there are."""
        return len(self.centres)

    @property
    def is_held_out(self) -> bool:
        """Whether anything in this scene is reserved for testing."""
        shown = {*self.things, (self.colour, self.into)}
        if self.second is not None and is_held_out_meeting(*self.things):
            return True
        return bool(shown & HELD_OUT_PAIRS) or is_held_out_triple(self.colour, self.shape, self.direction)


def is_held_out_triple(colour: str, shape: str, direction: str) -> bool:
    """Whether training never shows these three together: about one triple in eight, by a fixed hash."""
    if direction == "none":
        return False
    return hashlib.sha256(f"{colour} {shape} {direction}".encode()).digest()[0] % 10 == 0


def is_held_out_meeting(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether training never shows these two (colour, shape) in one clip: about one in four, by a fixed hash."""
    names = sorted(f"{colour} {shape}" for colour, shape in (first, second))
    return hashlib.sha256(" and ".join(names).encode()).digest()[0] % 4 == 0


def random_source(seed: int, purpose: str, index: int) -> np.random.Generator:
    """Random numbers that depend on nothing but these three, the same on every machine."""
    digest = hashlib.sha256(f"cogvideox.world/{seed}/{purpose}/{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample_scene(seed: int, index: int, split: str = "train", tier: str | None = None) -> Scene:
    """Scene number ``index`` of a split; the two splits share no scene and no held-out combination.

    ``tier`` asks for one story; by default it is drawn with the shares of ``TIERS``. Raises InputError for an
    unknown name.
    """
    _check_name("split", split, SPLITS)
    rng = random_source(seed, f"scene/{split}", index)
    drawn = str(rng.choice(list(TIERS), p=list(TIERS.values())))
    if tier is not None:
        _check_name("tier", tier, tuple(TIERS))
        drawn = tier
    while True:
        scene = _DRAW[drawn](rng)
        if scene.is_held_out == (split == "held_out"):
            return scene


def _check_name(what: str, name: str, options: tuple[str, ...]) -> None:
    if name not in options:
        raise InputError(f"{what} {name!r}: not one of {', '.join(options)}{suggest(name, options)}")


def _pick(rng: np.random.Generator, options, weights=None) -> str:
    return str(rng.choice(list(options), p=weights))


def _ground(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _centre(
    rng: np.random.Generator, extent, radius: float, travel: tuple[float, float]
) -> tuple[float, float]:
    """A centre that keeps an object inside the frame while it travels (half before, half after)."""
    wide, above, below = (e * radius + _MARGIN for e in extent)
    dx, dy = abs(travel[0]) / 2, abs(travel[1]) / 2
    low = np.array([wide + dx, above + dy])
    high = np.array([1 - wide - dx, 1 - below - dy])
    x, y = low + (high - low) * (0.15 + 0.7 * rng.random(2))
    return float(x), float(y)


def _travel(direction: str, length: float) -> tuple[float, float]:
    x, y = DIRECTIONS[direction]
    return x * length, y * length


def _motion(rng: np.random.Generator) -> Scene:
    colour, shape, direction = _pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, DIRECTIONS)
    speed = _pick(rng, TRAVEL, [0.3, 0.4, 0.3])
    radius = float(rng.uniform(0.12, 0.17))
    centre = _centre(rng, _EXTENT[shape], radius, _travel(direction, TRAVEL[speed]))
    return Scene("motion", colour, shape, radius, (centre,), direction, speed, ground=_ground(rng))


def _size(rng: np.random.Generator) -> Scene:
    colour, shape, change = _pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, GROWTH)
    radius = float(rng.uniform(0.10, 0.12) if change == "grow" else rng.uniform(0.18, 0.21))
    centre = _centre(rng, _EXTENT[shape], radius * max(1.0, GROWTH[change]), (0, 0))
    return Scene("size", colour, shape, radius, (centre,), change=change, ground=_ground(rng))


def _rotate(rng: np.random.Generator) -> Scene:
    colour, shape = _pick(rng, COLOURS), _pick(rng, TURNING_SHAPES)
    radius = float(rng.uniform(0.14, 0.18))
    centre = _centre(rng, _TURNING_EXTENT, radius, (0, 0))
    return Scene("rotate", colour, shape, radius, (centre,), change="rotate", ground=_ground(rng))


def _transform(rng: np.random.Generator) -> Scene:
    colour, (shape, into) = _pick(rng, COLOURS), map(str, rng.choice(SHAPES, size=2, replace=False))
    radius = float(rng.uniform(0.14, 0.18))
    at = (_centre(rng, _TURNING_EXTENT, radius, (0, 0)),)
    return Scene("transform", colour, shape, radius, at, change="transform", into=into, ground=_ground(rng))


def _count(rng: np.random.Generator) -> Scene:
    colour, shape = _pick(rng, COLOURS), _pick(rng, SHAPES)
    count = int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
    if count == 1:
        radius = float(rng.uniform(0.12, 0.18))
        centre = _centre(rng, _EXTENT[shape], radius, (0, 0))
        return Scene("count", colour, shape, radius, (centre,), ground=_ground(rng))
    direction = _pick(rng, DIRECTIONS) if rng.random() < 0.4 else "none"
    radius = float(rng.uniform(0.095, 0.105))
    centres = _side_by_side(rng, count, direction)
    return Scene("count", colour, shape, radius, centres, direction, ground=_ground(rng))


def _side_by_side(rng: np.random.Generator, count: int, direction: str) -> tuple[tuple[float, float], ...]:
    """Places side by side, or one above the other when they move sideways, so that they never meet."""
    along = (np.arange(count) - (count - 1) / 2) * 0.31 + 0.5 + rng.uniform(-0.03, 0.03)
    free = 0.12 if direction == "none" else 0.06
    across = 0.5 + rng.uniform(-free, free) + rng.uniform(-0.03, 0.03, count)
    xs, ys = (across, along) if direction in ("left", "right") else (along, across)
    return tuple((float(x), float(y)) for x, y in zip(xs, ys, strict=True))


def _pan(rng: np.random.Generator) -> Scene:
    colour, shape, camera = _pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, ("left", "right"))
    radius = float(rng.uniform(0.12, 0.17))
    centre = _centre(rng, _EXTENT[shape], radius, _travel(camera, PAN_TRAVEL))
    return Scene("pan", colour, shape, radius, (centre,), camera=camera, ground=_ground(rng))


def _pair(rng: np.random.Generator) -> Scene:
    colours = [str(colour) for colour in rng.choice(list(COLOURS), 2, replace=False)]
    shapes = [str(shape) for shape in rng.choice(SHAPES, 2, replace=False)]
    relation = _pick(rng, RELATIONS)
    across = rng.uniform(0.44, 0.56, 2)
    way, radius = np.array(RELATIONS[relation]), float(rng.uniform(0.11, 0.14))
    sides = zip(across, (1, -1), strict=True)
    centres = [np.where(way == 0, free, 0.5 + _APART * side * way) for free, side in sides]
    at = tuple((float(x), float(y)) for x, y in centres)
    ground, second = _ground(rng), (colours[1], shapes[1])
    relation = relation if rng.random() < 0.75 else "none"
    return Scene("pair", colours[0], shapes[0], radius, at, ground=ground, second=second, relation=relation)


_DRAW = dict(zip(TIERS, (_motion, _size, _rotate, _transform, _count, _pan, _pair), strict=True))
