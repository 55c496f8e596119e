"""How far the hues of a scene may be turned before it shows what training must not see."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

from cogvideox.world.scene import Scene
from cogvideox.world.style import COLOURS

NEAR = 22.0
"""A hue this many degrees from a colour of the world, or fewer, may be taken for it: the fact check names one within
21.6 (a cosine of .93), and orange and yellow are 23 apart."""
TURNS = tuple(range(0, 360, 10))


def hue(colour: tuple[int, int, int]) -> float:
    """Degrees about the grey axis of RGB, 0 for red."""
    red, green, blue = colour
    return math.degrees(math.atan2(math.sqrt(3) / 2 * (green - blue), red - (green + blue) / 2)) % 360


def free_turns(scene: Scene) -> tuple[int, ...]:
    """Turns of all hues of a scene, in degrees, after which nothing that is held out can be read from it: no scene is
    held out whose colours are those that the turned hues may be taken for."""
    return tuple(turn for turn in TURNS if not any(each.is_held_out for each in _readings(scene, turn)))


def _readings(scene: Scene, turn: int) -> list[Scene]:
    """The scene in each choice of colours for its turned hues; a hue that is far from all is a colour of its own,
    and may be kept away with no need."""
    accents = _names(scene.accent, turn) if scene.accent else [None]
    seconds = [(name, scene.second[1]) for name in _names(scene.second[0], turn)] if scene.second else [None]
    choices = product(_names(scene.colour, turn), seconds, accents)
    return [replace(scene, colour=name, second=other, accent=accent) for name, other, accent in choices]


def _names(colour: str, turn: int) -> list[str]:
    """The colours that a turned one may be taken for."""
    turned = hue(COLOURS[colour]) + turn
    gaps = {name: abs((hue(each) - turned + 180) % 360 - 180) for name, each in COLOURS.items()}
    return [name for name, gap in gaps.items() if gap <= NEAR] or ["unnamed"]
