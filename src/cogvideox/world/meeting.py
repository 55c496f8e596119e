"""Two things of different colours: how each of them moves, and how much of it the other one hides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cogvideox.world.foreground import Foreground, Thing

_LEAST_FREE = 2  # frames in which a thing stands alone, to say how large it is and where it goes


@dataclass(frozen=True, slots=True)
class Track:
    """The thing of one colour through a clip: ``travel`` (x, y) in shares of the side, ``hidden`` the most of it that
    was hidden in any frame, 0 to 1."""

    travel: tuple[float, float]
    hidden: float


def find_tracks(foreground: Foreground) -> dict[str, Track]:
    """Colour -> track, for the colours that stand alone in at least two frames."""
    by_colour: dict[str, list[Thing]] = {}
    for thing in foreground.things:
        by_colour.setdefault(thing.colour, []).append(thing)
    found = {colour: _track(things, foreground) for colour, things in by_colour.items()}
    return {colour: track for colour, track in found.items() if track is not None}


def _track(things: list[Thing], foreground: Foreground) -> Track | None:
    free = [thing for thing in things if not thing.touching]
    if len({thing.frame for thing in free}) < _LEAST_FREE:
        return None
    frames, side, _ = foreground.alpha.shape
    first, last = free[0], free[-1]
    scale = (frames - 1) / (last.frame - first.frame) / side
    travel = tuple(scale * (end - begin) for begin, end in zip(first.centre, last.centre, strict=True))
    usual = float(np.median([thing.mass for thing in free]))
    seen = np.zeros(frames)
    for thing in things:
        seen[thing.frame] += thing.mass
    met = [thing.frame for thing in things if thing.touching]
    lost = [1 - seen[frame] / usual for frame in range(min(met), max(met) + 1)] if met else [0.0]
    return Track((travel[0], travel[1]), float(np.clip(max(lost), 0, 1)))
