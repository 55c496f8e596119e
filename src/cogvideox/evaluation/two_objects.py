"""Two different things in one clip: are both there, is each colour on its own shape, do they stand as asked?

The prompts are held-out scenes of the world's story ``pair``: training shows no such two together, and in 42 of the 60
prompts one of them in no clip at all. The world's judge reads the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from cogvideox.evaluation.score import Score, mean_score
from cogvideox.video import Video
from cogvideox.world import Scene, caption, facts, judge, sample_scene

SEED, PROMPTS = 20_260_101, 60
FACTS = ("two_colours", "two_bound", "two_count", "two_relation", "two_all")


@dataclass(frozen=True)
class Two:
    """A prompt about two things, and the scene that it tells of."""

    id: str
    prompt: str
    scene: Scene


@cache
def two_object_prompts() -> tuple[Two, ...]:
    """60 prompts, no sentence twice; about three in four say how the two stand."""
    found: dict[str, Two] = {}
    index = 0
    while len(found) < PROMPTS:
        scene = sample_scene(SEED, index, "held_out", "pair")
        prompt = caption(scene, SEED, index)
        found.setdefault(prompt.lower().rstrip("."), Two(f"two-{len(found):03d}", prompt, scene))
        index += 1
    return tuple(found.values())


def judge_two(frames: np.ndarray, scene: Scene) -> dict[str, bool]:
    """Which facts hold in ``uint8 [t, h, w, 3]``: both colours, each on its shape, no third thing, the relation, all.

    A fact holds when more than half of the frames show it. The relation is left out where the prompt says none.
    """
    verdict = judge(frames, facts(scene))
    colours = {colour for colour, _ in scene.things}
    held = {"two_colours": verdict.reading.share(lambda seen: colours <= {t.colour for t in seen}) > 0.5}
    kinds = {"two_bound": "thing", "two_count": "count", "two_relation": "relation"}
    for name, kind in kinds.items():
        asked = [finding.holds for finding in verdict.findings if finding.check.kind == kind]
        if asked:
            held[name] = all(asked)
    return held | {"two_all": all(held.values())}


def two_objects(videos: Iterable[Video], asked: Iterable[Two | None]) -> list[Score]:
    """One score per fact; videos whose prompt is none of the 60 count for nothing."""
    held: dict[str, list[float]] = {name: [] for name in FACTS}
    prompts: list[str] = []
    for video, two in zip(videos, asked, strict=True):
        found = judge_two(video.frames, two.scene) if two is not None and len(video) >= 5 else {}
        prompts.append(two.prompt if two is not None else "")
        for name in FACTS:
            held[name].append(float(found[name]) if name in found else float("nan"))
    protocol = "share of videos that show it in most frames"
    return [
        mean_score(name, each, clusters=prompts, binary=True, protocol=protocol)
        for name, each in held.items()
    ]
