"""Two different things in one clip: are both there, is each colour on its own shape, do they stand as asked?

The tiny world of training shows equal things only, so every prompt here is a composition that training never held.
The truth is two renders added over one ground; the judge reads pixels only, with the world's own tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from cogvideox.evaluation.score import Score, mean_score
from cogvideox.video import Video
from cogvideox.world import COLOURS, SHAPES, Scene, render
from cogvideox.world.foreground import Foreground, Thing, find_things
from cogvideox.world.scene import random_source
from cogvideox.world.templates import compare

SEED, PROMPTS = 20_260_101, 60
RADIUS = 0.13
CLEAR_COLOUR, CLEAR_SHAPE = 0.93, 0.80  # as the judge of the world
APART = 0.10  # of the side, by which centres must differ along the asked way
MOST = 0.5  # of the frames must show a fact
RELATIONS: dict[str, tuple[str, int, int]] = {  # words, axis (0: x), sign of the first minus the second
    "left": ("to the left of", 0, -1),
    "right": ("to the right of", 0, 1),
    "above": ("above", 1, -1),
    "below": ("below", 1, 1),
}
FACTS = ("two_colours", "two_bound", "two_count", "two_relation", "two_all")


@dataclass(frozen=True)
class Two:
    """A prompt about two things, each a (colour, shape), and how the first stands to the second ('' : not said)."""

    id: str
    prompt: str
    first: tuple[str, str]
    second: tuple[str, str]
    relation: str
    index: int


@cache
def two_object_prompts() -> tuple[Two, ...]:
    """60 prompts: colours differ, shapes differ; three in four say how the two stand."""
    found: list[Two] = []
    index = 0
    while len(found) < PROMPTS:
        rng = random_source(SEED, "two objects", index)
        colours, shapes = rng.choice(list(COLOURS), 2, replace=False), rng.choice(SHAPES, 2, replace=False)
        relation = str(rng.choice(list(RELATIONS))) if rng.random() < 0.75 else ""
        names = [f"{_article(str(c))} {c} {s}" for c, s in zip(colours, shapes, strict=True)]
        between = RELATIONS[relation][0] if relation else "and"
        prompt = f"{names[0]} {between} {names[1]}"
        if prompt not in {each.prompt for each in found}:
            pair = [(str(c), str(s)) for c, s in zip(colours, shapes, strict=True)]
            found.append(Two(f"two-{len(found):03d}", prompt, pair[0], pair[1], relation, index))
        index += 1
    return tuple(found)


def render_two(two: Two, size: int = 64, frames: int = 17) -> np.ndarray:
    """What the prompt describes, at rest: ``uint8 [frames, size, size, 3]``."""
    rng = random_source(SEED, "places", two.index)
    ground = int(rng.integers(2**31))
    _, axis, sign = RELATIONS.get(two.relation) or RELATIONS[str(rng.choice(list(RELATIONS)))]
    places = rng.uniform(0.44, 0.56, (2, 2))
    places[0, axis], places[1, axis] = 0.5 + sign * 0.22, 0.5 - sign * 0.22

    def alone(colour: str, shape: str, place: np.ndarray, radius: float = RADIUS) -> np.ndarray:
        scene = Scene("count", colour, shape, radius, ((float(place[0]), float(place[1])),), ground=ground)
        return render(scene, size, frames).astype(np.int16)

    bare = alone(*two.first, np.array([-9.0, -9.0]), 0.01)
    both = alone(*two.first, places[0]) + alone(*two.second, places[1]) - bare
    return np.clip(both, 0, 255).astype(np.uint8)


def judge_two(frames: np.ndarray, two: Two) -> dict[str, bool]:
    """Which facts hold in ``uint8 [t, h, w, 3]``: both colours, each on its shape, no third thing, the relation, all.

    A fact holds when more than half of the frames show it. The relation is left out where the prompt says none.
    """
    foreground = find_things(frames)
    shapes = _shapes(foreground)
    seen = [_frame(foreground, shapes, frame, two, frames.shape[1]) for frame in range(len(frames))]
    asked = [name for name in FACTS[:-1] if name != "two_relation" or two.relation]
    held = {name: bool(np.mean([each[name] for each in seen]) > MOST) for name in asked}
    return held | {"two_all": all(held.values())}


def _frame(
    foreground: Foreground, shapes: Mapping[int, str], frame: int, two: Two, side: int
) -> dict[str, bool]:
    things = [(place, t) for place, t in enumerate(foreground.things) if t.frame == frame]
    wanted = (two.first, two.second)
    coloured = [
        [(p, t) for p, t in things if t.colour == c and t.colour_match > CLEAR_COLOUR] for c, _ in wanted
    ]
    bound = [[t for p, t in found if shapes[p] == s] for found, (_, s) in zip(coloured, wanted, strict=True)]
    stands = bool(two.relation and all(coloured)) and _stands(coloured[0][0][1], coloured[1][0][1], two, side)
    return {
        "two_colours": all(map(bool, coloured)),
        "two_bound": all(map(bool, bound)),
        "two_count": len(things) == 2,
        "two_relation": stands,
    }


def _stands(first: Thing, second: Thing, two: Two, side: int) -> bool:
    _, axis, sign = RELATIONS[two.relation]
    return sign * (first.centre[axis] - second.centre[axis]) / side > APART


def _shapes(foreground: Foreground) -> dict[int, str]:
    """The shape each thing is most like, by its place; '' where none is clear."""
    if not foreground.things:
        return {}
    score = compare(foreground, list(foreground.things)).score  # [n, shapes]
    best = score.argmax(1)
    return {p: SHAPES[b] if score[p, b] >= CLEAR_SHAPE else "" for p, b in enumerate(best)}


def two_objects(videos: Iterable[Video], asked: Iterable[Two | None]) -> list[Score]:
    """One score per fact; videos whose prompt is none of the 60 count for nothing."""
    held: dict[str, list[float]] = {name: [] for name in FACTS}
    prompts: list[str] = []
    for video, two in zip(videos, asked, strict=True):
        found = judge_two(video.frames, two) if two is not None and len(video) >= 5 else {}
        prompts.append(two.prompt if two is not None else "")
        for name in FACTS:
            held[name].append(float(found[name]) if name in found else float("nan"))
    protocol = "share of videos that show it in most frames"
    return [
        mean_score(name, each, clusters=prompts, binary=True, protocol=protocol)
        for name, each in held.items()
    ]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
