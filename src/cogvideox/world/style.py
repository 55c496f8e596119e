"""What a world is made of: its colours and shapes, its stories and their shares, and what training never shows.

There are two styles. ``plain``: one to three things of five shapes, in one colour each, on smooth grey ground.
``rich``: ten shapes, two of them in two colours, up to four things, two that move and hide one another, on patterned
ground. Scenes carry their style; functions of this package read it from them or take it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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

TIERS: dict[str, float] = {
    "motion": 0.50, "size": 0.12, "rotate": 0.08, "transform": 0.10, "count": 0.10, "pan": 0.10, "pair": 0.0,
}  # fmt: skip
"""The tiers and the share of scenes each one has; two different things are shown only where they are asked for."""

HELD_OUT_PAIRS = frozenset([
    ("red", "square"), ("orange", "cross"), ("yellow", "circle"), ("green", "triangle"), ("cyan", "ring"),
    ("blue", "square"), ("purple", "cross"),
])  # fmt: skip
"""(colour, shape) pairs that no training clip shows, at its beginning or at its end."""


@dataclass(frozen=True)
class Style:
    """One world: its words, stories and sizes.

    ``turning``: shapes whose rotation can be seen. ``accents``: shape -> the name of what of it has a colour of its
    own. ``numbers``: how several equal things are counted. ``textures``: patterns of the ground, ``panned`` those over
    which a camera moves. ``together``: what the size of things is multiplied by where several are shown. ``size`` and
    ``frames``: those of a clip, if none are asked for.
    """

    name: str
    shapes: tuple[str, ...]
    turning: tuple[str, ...]
    tiers: Mapping[str, float]
    held_out_pairs: frozenset[tuple[str, str]]
    numbers: Mapping[int, str]
    size: int
    frames: int
    accents: Mapping[str, str] = field(default_factory=dict)
    textures: tuple[str, ...] = ("cloud",)
    panned: tuple[str, ...] = ("cloud",)
    together: float = 1.0

    @property
    def simple(self) -> tuple[str, ...]:
        """The shapes of one colour."""
        return tuple(shape for shape in self.shapes if shape not in self.accents)


STYLES: dict[str, Style] = {
    "plain": Style(
        name="plain",
        shapes=SHAPES,
        turning=TURNING_SHAPES,
        tiers=TIERS,
        held_out_pairs=HELD_OUT_PAIRS,
        numbers={2: "two", 3: "three"},
        size=64,
        frames=17,
    ),
    "rich": Style(
        name="rich",
        shapes=(*SHAPES, "star", "heart", "moon", "mushroom", "fish"),
        turning=(*TURNING_SHAPES, "star", "heart", "moon", "mushroom", "fish"),
        tiers={
            "motion": 0.20, "size": 0.10, "rotate": 0.10, "transform": 0.10, "count": 0.15, "pan": 0.05, "pair": 0.10,
            "duet": 0.10, "meet": 0.10,
        },
        held_out_pairs=HELD_OUT_PAIRS
        | {("red", "star"), ("yellow", "heart"), ("cyan", "moon"), ("blue", "mushroom"), ("orange", "fish")},
        numbers={2: "two", 3: "three", 4: "four"},
        size=128,
        frames=33,
        accents={"mushroom": "stem", "fish": "tail"},
        textures=("cloud", "tiles", "bricks", "stones", "waves"),
        panned=("cloud", "tiles", "bricks", "stones"),
        together=0.85,
    ),
}  # fmt: skip
"""Name -> style."""


def get_style(name: str) -> Style:
    """The style of this name; InputError with a suggestion where there is none."""
    if name not in STYLES:
        raise InputError(f"style {name!r}: not one of {', '.join(STYLES)}{suggest(name, STYLES)}")
    return STYLES[name]
