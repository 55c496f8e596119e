"""How well the outlines of a clip's things agree with the ideal shapes that a scene asks for.

A fact check says which shape a thing resembles most; a circle with a horn is still a circle. Here each thing is laid
over the ideal shape of its own area at its own centre, and their overlap is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from cogvideox.world.foreground import Foreground, Thing, find_things
from cogvideox.world.rendering import DISTANCE, clip_times, morph_progress
from cogvideox.world.scene import Scene
from cogvideox.world.templates import angles_of
from cogvideox.world.two_colours import find_coloured_things

_PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a transformation while it happens


def silhouette_agreement(frames: np.ndarray, scene: Scene) -> float:
    """Mean intersection over union (IoU) of things and ideal shapes, 0 to 1, over uint8 frames ``[t, h, w, 3]``.

    A thing takes the ideal shape that the scene asks for at that moment and in its colour; rotated where things
    rotate, half-way where one shape becomes another. Things that are missing, or too many, count 0. Things cut by the
    edge of the frame, or by another thing, are left out; NaN where no frame has others.
    """
    found = find_things(frames) if scene.style == "plain" else find_coloured_things(frames)
    foreground, times = found, clip_times(len(frames))
    progress = morph_progress(times)
    agreements = [
        _of_frame(foreground, number, scene, float(progress[number])) for number in range(len(frames))
    ]
    known = [agreement for agreement in agreements if agreement is not None]
    return float(np.mean(known)) if known else float("nan")


def _of_frame(foreground: Foreground, number: int, scene: Scene, progress: float) -> float | None:
    things = foreground.of(number)
    if things and not all(thing.whole for thing in things):
        return None
    asked = list(scene.things)
    total = max(len(things), len(asked))
    overlaps = []
    for thing in things:
        match = next((each for each in asked if each[0] == thing.colour), None)
        if match is not None:
            asked.remove(match)
            overlaps.append(_overlap(foreground, thing, _candidates(scene, match[1], progress)))
    return sum(overlaps) / total


def _candidates(scene: Scene, shape: str, progress: float) -> list[tuple[str, str, float, float]]:
    """(shape, what it turns into, how far it is, degrees) of each ideal that a thing may have in this frame."""
    if scene.into is not None:
        shares = [progress] if progress in (0.0, 1.0) else _PROGRESS
        return [(shape, scene.into, share, 0.0) for share in shares]
    angles = angles_of(shape) if scene.change == "rotate" else np.zeros(1)
    if shape == "fish":
        angles = np.concatenate([angles, angles + 180])  # it looks where it swims
    return [(shape, shape, 0.0, float(angle)) for angle in angles]


def _overlap(
    foreground: Foreground, thing: Thing, candidates: Iterable[tuple[str, str, float, float]]
) -> float:
    """The best IoU of soft masks of one thing and of its candidates."""
    mask = foreground.alpha[thing.frame] * (foreground.labels[thing.frame] == thing.label)
    y, x = (np.arange(side) + 0.5 for side in mask.shape)
    best = 0.0
    for shape, into, share, angle in candidates:
        radius = np.sqrt(thing.mass / _area(shape, into, share))
        far_x, far_y = (x - thing.centre[0] - 0.5) / radius, (y[:, None] - thing.centre[1] - 0.5) / radius
        turn = np.deg2rad(angle)
        across = np.cos(turn) * far_x + np.sin(turn) * far_y
        down = np.cos(turn) * far_y - np.sin(turn) * far_x
        ideal = np.clip(0.5 - _distance(shape, into, share, across, down) * radius, 0, 1)
        best = max(best, float(np.minimum(mask, ideal).sum() / np.maximum(mask, ideal).sum()))
    return best


def _distance(shape: str, into: str, share: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape on its way into another, of radius 1."""
    before = DISTANCE[shape](x, y)
    return before if share == 0 else before + share * (DISTANCE[into](x, y) - before)


@cache
def _area(shape: str, into: str, share: float) -> float:
    """Area of a shape of radius 1 on its way into another."""
    fine = np.linspace(-2, 2, 801)
    return float((_distance(shape, into, share, fine[None], fine[:, None]) < 0).mean() * 16)
