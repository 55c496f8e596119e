"""What happens in one clip of the world of moving shapes, as a frozen value, and how such values are drawn.

Lengths are fractions of the frame's side, y grows downwards, angles are degrees clockwise, time runs from 0
(first frame) to 1 (last frame). One scene tells one story (its tier): a single shape moves, grows or shrinks,
rotates, turns into another shape; there are one to three equal shapes, or two that differ in colour and in
shape; or the camera pans over a resting shape. In the rich style there are up to four equal shapes, and two different
things also move, each its own way (duet), or one past the other, in front of it or behind (meet).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from cogvideox.errors import InputError, suggest
from cogvideox.world.style import COLOURS, Style, get_style

DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TRAVEL: dict[str, float] = {"slow": 0.20, "normal": 0.35, "fast": 0.50}
PAN_TRAVEL = 0.35
GROWTH: dict[str, float] = {"grow": 1.8, "shrink": 0.5}
SPIN_DEGREES = 120.0
MEETING_TRAVEL = (0.66, 0.42)
"""How far a thing moves that passes another: one that rests, and one that moves the other way."""
RELATIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
"""How the first of two things stands to the second, and the way from the second to the first."""
SPLITS = ("train", "held_out")

# Half the width, the height above and the height below the centre, for radius 1 (see rendering.py).
_EXTENT = {
    "circle": (1.0, 1.0, 1.0),
    "square": (0.89, 0.89, 0.89),
    "triangle": (1.26, 1.45, 0.73),
    "cross": (1.15, 1.15, 1.15),
    "ring": (1.1, 1.1, 1.1),
    "star": (1.48, 1.55, 1.26),
    "heart": (1.14, 0.85, 1.24),
    "moon": (1.43, 1.37, 1.37),
    "mushroom": (1.26, 1.01, 1.21),
    "fish": (1.54, 0.91, 0.91),
}
_TURNING_EXTENT = (1.45, 1.45, 1.45)
_MARGIN = 0.02
_APART = 0.22  # of the side: how far each of two things is from the middle


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip's truth. ``centres``: (x, y) of its objects at mid-clip, in world coordinates.

    They are equal, unless there is a ``second`` (colour, shape), to which the first stands in ``relation``, as far as
    captions tell. Rich scenes have more: ``accent``, the second colour of things that have two; ``second_direction``,
    where the second thing moves; ``front``, which of two things that meet hides the other (first or second);
    ``texture``, the pattern of the ground.
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
    style: str = field(default="plain", repr=False)  # not of the text that random choices are seeded with
    accent: str | None = field(default=None, repr=False)
    second_direction: str = field(default="none", repr=False)
    front: str = field(default="none", repr=False)
    texture: str = field(default="cloud", repr=False)

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
    def directions(self) -> tuple[str, ...]:
        """Where each object moves."""
        first = (self.direction,) * len(self.centres)
        return first if self.second is None else (self.direction, self.second_direction)

    @property
    def travel(self) -> float:
        """How far its objects move, those that do."""
        if self.front == "none":
            return TRAVEL[self.speed]
        return MEETING_TRAVEL[self.second_direction != "none"]

    @property
    def is_held_out(self) -> bool:
        """Whether anything in this scene is reserved for testing."""
        shown = {*self.things, (self.colour, self.into)}
        if self.second is not None and is_held_out_meeting(*self.things):
            return True
        if self.accent is not None and is_held_out_triple(self.colour, self.shape, self.accent):
            return True
        return bool(shown & get_style(self.style).held_out_pairs) or any(
            is_held_out_triple(*thing, direction)
            for thing, direction in zip(self.things, self.directions, strict=True)
        )


def is_held_out_triple(colour: str, shape: str, direction: str) -> bool:
    """Whether training never shows these three together: about one triple in eight, by a fixed hash. The third is a
    direction, or the colour of an accent."""
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


def sample_scene(
    seed: int, index: int, split: str = "train", tier: str | None = None, style: str = "plain"
) -> Scene:
    """Scene number ``index`` of a split; the two splits share no scene and no held-out combination.

    ``tier`` asks for one story; by default it is drawn with the shares of the style. Raises InputError for an
    unknown name.
    """
    _check_name("split", split, SPLITS)
    chosen = get_style(style)
    rng = random_source(seed, f"scene/{split}" if style == "plain" else f"scene/{style}/{split}", index)
    drawn = str(rng.choice(list(chosen.tiers), p=list(chosen.tiers.values())))
    if tier is not None:
        _check_name("tier", tier, tuple(chosen.tiers))
        drawn = tier
    while True:
        scene = _DRAW[drawn](rng, chosen)
        if style != "plain":
            scene = _adorned(scene, rng, chosen)
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


def _motion(rng: np.random.Generator, style: Style) -> Scene:
    colour, shape, direction = _pick(rng, COLOURS), _pick(rng, style.shapes), _pick(rng, DIRECTIONS)
    speed = _pick(rng, TRAVEL, [0.3, 0.4, 0.3])
    radius = float(rng.uniform(0.12, 0.17))
    centre = _centre(rng, _EXTENT[shape], radius, _travel(direction, TRAVEL[speed]))
    return Scene("motion", colour, shape, radius, (centre,), direction, speed, ground=_ground(rng))


def _size(rng: np.random.Generator, style: Style) -> Scene:
    colour, shape, change = _pick(rng, COLOURS), _pick(rng, style.shapes), _pick(rng, GROWTH)
    radius = float(rng.uniform(0.10, 0.12) if change == "grow" else rng.uniform(0.18, 0.21))
    centre = _centre(rng, _EXTENT[shape], radius * max(1.0, GROWTH[change]), (0, 0))
    return Scene("size", colour, shape, radius, (centre,), change=change, ground=_ground(rng))


def _rotate(rng: np.random.Generator, style: Style) -> Scene:
    colour, shape = _pick(rng, COLOURS), _pick(rng, style.turning)
    radius = float(rng.uniform(0.14, 0.18))
    centre = _centre(rng, _TURNING_EXTENT, radius, (0, 0))
    return Scene("rotate", colour, shape, radius, (centre,), change="rotate", ground=_ground(rng))


def _transform(rng: np.random.Generator, style: Style) -> Scene:
    colour, (shape, into) = _pick(rng, COLOURS), map(str, rng.choice(style.simple, size=2, replace=False))
    radius = float(rng.uniform(0.14, 0.18))
    at = (_centre(rng, _TURNING_EXTENT, radius, (0, 0)),)
    return Scene("transform", colour, shape, radius, at, change="transform", into=into, ground=_ground(rng))


def _count(rng: np.random.Generator, style: Style) -> Scene:
    colour, shape = _pick(rng, COLOURS), _pick(rng, style.shapes)
    shares = [0.2, *[0.8 / len(style.numbers)] * len(style.numbers)]
    count = int(rng.choice([1, *style.numbers], p=shares))
    if count == 1:
        radius = float(rng.uniform(0.12, 0.18))
        centre = _centre(rng, _EXTENT[shape], radius, (0, 0))
        return Scene("count", colour, shape, radius, (centre,), ground=_ground(rng))
    direction = _pick(rng, DIRECTIONS) if rng.random() < 0.4 else "none"
    radius = style.together * float(rng.uniform(0.095, 0.105) if count < 4 else rng.uniform(0.072, 0.08))
    centres = _side_by_side(rng, count, direction)
    return Scene("count", colour, shape, radius, centres, direction, ground=_ground(rng))


def _side_by_side(rng: np.random.Generator, count: int, direction: str) -> tuple[tuple[float, float], ...]:
    """Places side by side, or one above the other when they move sideways, so that they never meet."""
    step = 0.31 if count < 4 else 0.23
    along = (np.arange(count) - (count - 1) / 2) * step + 0.5 + rng.uniform(-0.03, 0.03)
    free = 0.12 if direction == "none" else 0.06
    across = 0.5 + rng.uniform(-free, free) + rng.uniform(-0.03, 0.03, count)
    xs, ys = (across, along) if direction in ("left", "right") else (along, across)
    return tuple((float(x), float(y)) for x, y in zip(xs, ys, strict=True))


def _pan(rng: np.random.Generator, style: Style) -> Scene:
    colour, shape, camera = _pick(rng, COLOURS), _pick(rng, style.shapes), _pick(rng, ("left", "right"))
    radius = float(rng.uniform(0.12, 0.17))
    centre = _centre(rng, _EXTENT[shape], radius, _travel(camera, PAN_TRAVEL))
    return Scene("pan", colour, shape, radius, (centre,), camera=camera, ground=_ground(rng))


def _pair(rng: np.random.Generator, style: Style) -> Scene:
    colours = [str(colour) for colour in rng.choice(list(COLOURS), 2, replace=False)]
    shapes = [str(shape) for shape in rng.choice(style.simple, 2, replace=False)]
    relation = _pick(rng, RELATIONS)
    across = rng.uniform(0.44, 0.56, 2)
    way, radius = np.array(RELATIONS[relation]), style.together * float(rng.uniform(0.11, 0.14))
    sides = zip(across, (1, -1), strict=True)
    centres = [np.where(way == 0, free, 0.5 + _APART * side * way) for free, side in sides]
    at = tuple((float(x), float(y)) for x, y in centres)
    ground, second = _ground(rng), (colours[1], shapes[1])
    relation = relation if rng.random() < 0.75 else "none"
    return Scene("pair", colours[0], shapes[0], radius, at, ground=ground, second=second, relation=relation)


def _duet(rng: np.random.Generator, style: Style) -> Scene:
    """Two different things, in two rows or in two columns, that each move along theirs."""
    colours, shapes = _two_kinds(rng, style)
    ways = ("left", "right") if rng.random() < 0.5 else ("up", "down")
    one, other = _pick(rng, ways), _pick(rng, ways)
    radius, sideways = float(rng.uniform(0.10, 0.125)), ways == ("left", "right")
    across = np.array([0.26, 0.74]) if rng.random() < 0.5 else np.array([0.74, 0.26])
    along, across = rng.uniform(0.44, 0.56, 2), across + rng.uniform(-0.02, 0.02, 2)
    xs, ys = (along, across) if sideways else (across, along)
    at = tuple((float(x), float(y)) for x, y in zip(xs, ys, strict=True))
    second = (colours[1], shapes[1])
    return Scene(
        "duet",
        colours[0],
        shapes[0],
        radius,
        at,
        one,
        ground=_ground(rng),
        second=second,
        second_direction=other,
    )


def _meet(rng: np.random.Generator, style: Style) -> Scene:
    """One thing passes another, which rests or comes towards it; which of the two is in front decides what is seen."""
    colours, shapes = _two_kinds(rng, style)
    direction, front = _pick(rng, DIRECTIONS), _pick(rng, ("first", "second"))
    back = next(
        name for name, way in DIRECTIONS.items() if way == tuple(-step for step in DIRECTIONS[direction])
    )
    second_direction = back if rng.random() < 0.5 else "none"
    radius, middle = float(rng.uniform(0.09, 0.105)), rng.uniform(0.485, 0.515)
    apart = float(rng.uniform(-0.03, 0.03))  # across the way
    row = rng.uniform(0.35, 0.65)
    sideways = direction in ("left", "right")
    places = [(middle, row + apart / 2), (middle, row - apart / 2)]
    at = tuple((float(x), float(y)) if sideways else (float(y), float(x)) for x, y in places)
    return Scene(
        "meet", colours[0], shapes[0], radius, at, direction, ground=_ground(rng), second=(colours[1], shapes[1]),
        second_direction=second_direction, front=front,
    )  # fmt: skip


def _two_kinds(rng: np.random.Generator, style: Style) -> tuple[list[str], list[str]]:
    """Two colours and two shapes."""
    colours = [str(colour) for colour in rng.choice(list(COLOURS), 2, replace=False)]
    return colours, [str(shape) for shape in rng.choice(style.simple, 2, replace=False)]


def _adorned(scene: Scene, rng: np.random.Generator, style: Style) -> Scene:
    """The scene in another style than plain: a pattern on the ground, a second colour where its shape has one."""
    texture = _pick(rng, style.textures if scene.camera == "static" else style.panned)
    accent = None
    if scene.shape in style.accents:
        accent = _pick(rng, [colour for colour in COLOURS if colour != scene.colour])
    return replace(scene, style=style.name, texture=texture, accent=accent)


_DRAW = {
    "motion": _motion, "size": _size, "rotate": _rotate, "transform": _transform, "count": _count, "pan": _pan,
    "pair": _pair, "duet": _duet, "meet": _meet,
}  # fmt: skip
