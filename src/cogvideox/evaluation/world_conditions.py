"""Models that read more than a prompt, on held-out scenes of the tiny world: suites inpaint, keyframes and control.

Each scene gives a model what it needs, as a person would: a clip of the same motion with another thing in it and a box
over the thing; the first and the last frame; dots on the paths of the things. Whether the model did as it was asked
is read from the pixels. A prompt alone does not tell the answers: a model that reads nothing besides shows chance.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np

from cogvideox.evaluation.score import Better, Score, mean_score
from cogvideox.video import Video
from cogvideox.video.mask import boxes, grown
from cogvideox.world import (
    COLOURS,
    SHAPES,
    Scene,
    check_facts,
    dots,
    facts,
    paths,
    read_frames,
    render,
    silhouettes,
)
from cogvideox.world.fact_check import UNCLEAR, SeenThing
from cogvideox.world.held_out import held_out_prompts

ConditionSuite = Literal["inpaint", "keyframes", "control"]
CONDITION_SUITES: tuple[ConditionSuite, ...] = ("inpaint", "keyframes", "control")

MARGIN = 4
"""Pixels between a thing and the edge of the mask over it."""
UNCHANGED = 32.0
"""PSNR outside the mask from which a clip counts as unchanged; another ground of the world is at about 25 dB."""
NEAR = 0.06
"""Distance within which a thing is where it was asked for, in shares of the side: the radius of a dot."""
MOST_FRAMES = 0.8
"""Share of the frames in which things must be on their paths."""


def brought(suite: ConditionSuite, scene: Scene, size: int = 64, frames: int = 17) -> dict[str, Any]:
    """What a model is given for a scene besides its prompt, as keywords of ``generate``."""
    if suite == "inpaint":
        return {"video": Video(masked_clip(scene, size, frames), 8.0), "mask": mask_over(scene, size, frames)}
    if suite == "keyframes":
        truth = render(scene, size, frames)
        return {"image": truth[0], "last_image": truth[-1]}
    return {"control": Video(dots(paths(scene, frames), size), 8.0)}


def other_thing(scene: Scene) -> Scene:
    """The same scene with things of another colour and shape: what is to be replaced."""
    draw = random.Random(f"another thing/{scene}")
    colour = draw.choice([each for each in COLOURS if each not in {name for name, _ in scene.things}])
    shapes = {scene.shape, scene.into}
    return replace(scene, colour=colour, shape=draw.choice([each for each in SHAPES if each not in shapes]))


def masked_clip(scene: Scene, size: int = 64, frames: int = 17) -> np.ndarray:
    """The clip to be changed, uint8 [t, h, w, 3]: the scene with another thing, on the same ground."""
    return render(other_thing(scene), size, frames)


def mask_over(scene: Scene, size: int = 64, frames: int = 17) -> np.ndarray:
    """White boxes over the thing that is there and the one that is asked for, frame by frame: uint8 [t, h, w]."""
    both = silhouettes(scene, size, frames) | silhouettes(other_thing(scene), size, frames)
    return grown(boxes(both), MARGIN).astype(np.uint8) * 255


def inpaint_facts(frames: np.ndarray, scene: Scene) -> dict[str, float]:
    """Of a filled clip uint8 [t, h, w, 3]: whether it shows what was asked for, and how well the rest was kept."""
    count, size = frames.shape[:2]
    asked = check_facts(frames, facts(scene)).all_hold
    kept = mask_over(scene, size, count) == 0
    off = frames[kept].astype(float) - masked_clip(scene, size, count)[kept]
    psnr = 10 * np.log10(255**2 / max(float((off**2).mean()), 1e-6))
    unchanged = psnr >= UNCHANGED
    found = {"replaced": asked, "unchanged": unchanged, "both": asked and unchanged}
    return {name: float(value) for name, value in found.items()} | {"outside_psnr": psnr}


def keyframe_facts(frames: np.ndarray, scene: Scene) -> dict[str, float]:
    """Of a clip between two given frames: whether its first and last frame show their things where they were given."""
    truth = render(scene, frames.shape[1], len(frames))
    seen, given = read_frames(frames).things, read_frames(truth).things
    off = frames[-1].astype(float) - truth[-1]
    return {
        "first_reached": float(_same_things(seen[0], given[0])),
        "last_reached": float(_same_things(seen[-1], given[-1])),
        "last_psnr": float(10 * np.log10(255**2 / max(float((off**2).mean()), 1e-6))),
        "facts": float(check_facts(frames, facts(scene)).all_hold),
    }


def control_facts(frames: np.ndarray, scene: Scene) -> dict[str, float]:
    """Of a clip that was to follow paths: whether its things are on them in most frames, and how far off they are."""
    centres = [[thing.centre for thing in things] for things in read_frames(frames).things]
    asked = paths(scene, len(frames)).swapaxes(0, 1)  # [frames, things, 2]
    off = np.stack([_distances(seen, wanted) for seen, wanted in zip(centres, asked, strict=True)])
    return {
        "followed": float((off.max(axis=1) <= NEAR).mean() >= MOST_FRAMES),
        "distance": float(off.mean()),
        "facts": float(check_facts(frames, facts(scene)).all_hold),
    }


FACTS_OF = {"inpaint": inpaint_facts, "keyframes": keyframe_facts, "control": control_facts}
ABOUT: Mapping[str, Mapping[str, str]] = {
    "inpaint": {
        "replaced": "share of videos that show every fact of their prompt",
        "unchanged": f"share of videos that outside the mask are within {UNCHANGED:g} dB of the given clip",
        "both": "share of videos with both",
        "outside_psnr": "PSNR to the given clip outside the mask, all frames",
    },
    "keyframes": {
        "first_reached": "share of videos whose first frame has the given one's things, where they are",
        "last_reached": "share of videos whose last frame has the given one's things, where they are",
        "last_psnr": "PSNR of the last frame to the given one",
        "facts": "share of videos that show every fact of their prompt",
    },
    "control": {
        "followed": f"share of videos whose things are on their paths in {MOST_FRAMES:.0%} of the frames",
        "distance": "mean distance of the things from their paths, in shares of the side; 0.5 at most",
        "facts": "share of videos that show every fact of their prompt",
    },
}
"""What each score of a suite says."""


def condition_scores(suite: ConditionSuite, videos: Iterable[Video], prompts: Sequence[str]) -> list[Score]:
    """The scores of a suite; videos whose prompt is none of the world's are left out (NaN)."""
    scenes = _scenes()
    each: dict[str, list[float]] = {name: [] for name in ABOUT[suite]}
    for video, prompt in zip(videos, prompts, strict=True):
        scene = scenes.get(prompt)
        known = scene is not None and len(video) >= 5
        found = FACTS_OF[suite](video.frames, scene) if known and scene is not None else {}
        for name, values in each.items():
            values.append(found.get(name, float("nan")))
    return [
        mean_score(
            f"{suite}_{name}",
            values,
            clusters=prompts,
            binary=name not in UNITS,
            unit=UNITS.get(name, ""),
            better=_better(name),
            protocol=ABOUT[suite][name],
        )
        for name, values in each.items()
    ]


UNITS = {"outside_psnr": "dB", "last_psnr": "dB", "distance": "of the side"}


def _better(name: str) -> Better:
    return "lower" if name == "distance" else "higher"


@cache
def _scenes() -> dict[str, Scene]:
    return {prompt.prompt: prompt.scene for prompt in held_out_prompts()}


def _same_things(seen: Sequence[SeenThing], given: Sequence[SeenThing]) -> bool:
    """Whether each given thing has one of its colour and shape near it, and there are no others; an unclear shape is
    any."""
    if len(seen) != len(given):
        return False
    return any(all(map(_same_thing, order, given)) for order in itertools.permutations(seen))


def _same_thing(one: SeenThing, other: SeenThing) -> bool:
    shapes = {one.shape, other.shape}
    alike = one.colour == other.colour and (len(shapes) == 1 or UNCLEAR in shapes)
    return alike and float(np.hypot(*np.subtract(one.centre, other.centre))) <= NEAR


def _distances(seen: Sequence[tuple[float, float]], wanted: np.ndarray) -> np.ndarray:
    """How far each wanted centre [things, 2] is from the thing nearest to it; 0.5 where there is none."""
    if not seen:
        return np.full(len(wanted), 0.5)
    between = np.linalg.norm(wanted[:, None] - np.array(seen)[None], axis=-1)
    return np.minimum(between.min(axis=1), 0.5)
