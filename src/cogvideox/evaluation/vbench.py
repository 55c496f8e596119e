"""VBench's rules as published (Huang et al. 2024; Table 3 uses five of them), its names and its totals.

A rule is exact only with the network it was published with. Each function here takes that network behind a
protocol of ``perception.experts`` and says "not computed" without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.lengths import is_long, over_pieces
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.experts import ActionClassifier, CaptionExpert, Detector, FlowMagnitudes
from cogvideox.perception.image_text import ImageText
from cogvideox.video import Video

SAMPLED = 16  # frames
SURE = 0.85  # of an action
BEST = 5  # actions looked at
LIMIT = 6.0  # pixels of flow at a short side of 256
STILL_LIMIT = 3.0  # the same, for the filter of temporal flickering

# Lowest and highest raw value of each dimension, by which VBench normalises.
BOUNDS: dict[str, tuple[float, float]] = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
QUALITY = tuple(BOUNDS)[:7]
SEMANTIC = tuple(BOUNDS)[7:]


def middle_frames(num: int, wanted: int = SAMPLED) -> list[int]:
    """The middles of equal segments of ``num`` frames; the last one again where there are too few frames."""
    edges = np.linspace(0, num, min(wanted, num) + 1).astype(int)
    places = [int(first + last - 1) // 2 for first, last in zip(edges[:-1], edges[1:], strict=True)]
    return places + places[-1:] * (wanted - len(places))


def human_action(
    videos: Iterable[Video], actions: Sequence[str], classifier: ActionClassifier | None
) -> Score:
    """Share of videos whose action is among the five likeliest and at least .85 likely."""

    def holds(video: Video, action: str) -> float:
        said = classifier(_sampled(video), _name(video))
        best = sorted(said.items(), key=lambda item: -item[1])[:BEST]
        return float(any(label.lower() == action and round(p, 4) >= SURE for label, p in best))

    return _asked("human_action", videos, [a.lower() for a in actions], classifier, "UMT-L/16 (K400)", holds)


def action_of(prompt: str) -> str:
    """What VBench reads from a prompt such as "A person is riding a bike"; its cut at "-" and "_" included."""
    return prompt.lower().split("-")[0].split("person is ")[-1].split("_")[0]


def scene(videos: Iterable[Video], scenes: Sequence[str], captioner: CaptionExpert | None) -> Score:
    """Share of frames whose caption contains every word of the scene's name."""

    def share(video: Video, name: str) -> float:
        captions = captioner(_sampled(video), _name(video))
        return _share(all(word in caption for word in name.split(" ")) for caption in captions)

    return _asked("scene", videos, scenes, captioner, "Tag2Text Swin-B", share)


def multiple_objects(videos: Iterable[Video], objects: Sequence[str], detector: Detector | None) -> Score:
    """Share of frames in which both things of "a and b" are found."""

    def share(video: Video, both: str) -> float:
        first, second = (name.strip() for name in both.split(" and "))
        return _share(first in seen and second in seen for seen in detector(_sampled(video), _name(video)))

    return _asked("multiple_objects", videos, objects, detector, "GRiT-B (detection)", share)


def appearance_style(videos: Iterable[Video], styles: Sequence[str], judge: ImageText | None) -> Score:
    """Similarity of every frame with the style's words alone, CLIP ViT-B/32; the mean of all frames of all videos.

    Videos of different lengths count by their frames, as published.
    """
    name, protocol = "vbench_appearance_style_raw", "CLIP similarity of all frames with the style alone"
    if judge is None:
        return not_computed(name, "needs CLIP ViT-B/32 weights (--clip FOLDER)", protocol=protocol)
    each, frames = [], []
    for video, style in zip(videos, styles, strict=True):
        similar = judge.images(video.frames) @ judge.texts([style])[0]
        each.append(float(similar.mean()))
        frames.append(len(video))
    score = mean_score(name, each, protocol=protocol, settings={"network": judge.name})
    if score.value is None or len(set(frames)) == 1:
        return score
    by_frames = float(np.average(each, weights=frames))
    return Score(**{**{k: getattr(score, k) for k in score.__dataclass_fields__}, "value": by_frames})


def dynamic_degree(videos: Iterable[Video], flow: FlowMagnitudes | None) -> Score:
    """Share of videos that move: see ``moves``."""
    name, protocol = "vbench_dynamic_degree_raw", "RAFT flow at about 8 fps, top 5 % over 6 pixels at 256"
    if flow is None:
        return not_computed(name, "needs RAFT-things flow (--observations FILE)", protocol=protocol)

    def moving(video: Video) -> float:
        some = every_eighth(video)
        short = min(video.height, video.width)
        return float(moves(flow(some, _name(video)), len(some), short, video.fps))

    each, long = [], 0
    for video in videos:
        each.append(over_pieces(video, "dynamic_degree", moving))
        long += is_long(video)
    settings = {"network": flow.name} | ({"long_videos": long} if long else {})
    return mean_score(name, each, binary=not long, protocol=protocol, settings=settings)


def every_eighth(video: Video) -> np.ndarray:
    """Frames at about 8 per second: every round(fps / 8)-th."""
    return video.frames[:: max(1, round(video.fps / 8))]


def moves(pairs: Iterable[float], frames: int, short: int, fps: float = 8.0) -> bool:
    """Whether at least round(4 n / 16) pairs of n frames exceed 6 pixels at a short side of 256.

    ``pairs``: the mean of the largest 5 % of flow in each. Rates below 8 raise the limit by 8 / fps (VBench's later
    code; no difference at 8 and above). Two frames need round(0.5) = 0 pairs, so they always move, as published.
    """
    limit, needed = max(1.0, 8.0 / fps) * LIMIT * short / 256, round(4 * frames / 16)
    return _enough(pairs, limit, needed)


def is_still(pairs: Iterable[float], first_last: float, frames: int, short: int) -> bool:
    """VBench's filter before temporal flickering: fewer than round(2 n / 16) pairs exceed 3 pixels at 256.

    ``pairs``: the mean of the largest 2 % of flow in each; ``first_last``: that of first to last frame, whose
    limit is twice as high.
    """
    limit, needed = STILL_LIMIT * short / 256, round(2 * frames / 16)
    return not (_enough(pairs, limit, needed) or first_last > 2 * limit)


def total(raw: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score from all sixteen raw values of 0..1. Raises InputError for missing ones."""
    missing = sorted(set(BOUNDS) - set(raw))
    if missing:
        raise InputError(
            f"total: {len(missing)} of 16 dimensions are missing ({', '.join(missing[:4])}, ...)"
        )
    value = {name: (raw[name] - low) / (high - low) for name, (low, high) in BOUNDS.items()}
    weight = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in QUALITY}
    quality = sum(weight[name] * value[name] for name in QUALITY) / sum(weight.values())
    return combine(quality, sum(value[name] for name in SEMANTIC) / len(SEMANTIC))


def combine(quality: float, semantic: float) -> dict[str, float]:
    """Total = (4 quality + semantic) / 5."""
    return {"quality": quality, "semantic": semantic, "total": (4 * quality + semantic) / 5}


def export_name(prompt: str, number: int, suffix: str = ".mp4") -> str:
    """``<prompt>-<number>.mp4``, as VBench looks for them. Raises InputError for prompts no file name can hold."""
    name = f"{prompt}-{number}{suffix}"
    if "/" in prompt or "\0" in prompt or not prompt.strip() or len(name.encode()) > 255:
        raise InputError(f"prompt {prompt[:60]!r}: cannot be a file name; VBench's own prompts all can")
    return name


def import_name(name: str) -> tuple[str, int]:
    """(prompt, number) from a file name. Raises InputError."""
    stem, dash, number = name.rpartition(".")[0].rpartition("-")
    if not dash or not number.isdecimal() or not stem:
        raise InputError(f"{name!r}: not named <prompt>-<number>.mp4")
    return stem, int(number)


def read_results(record: Mapping[str, Any]) -> dict[str, float]:
    """dimension -> raw value of 0..1 from a results file that VBench wrote ([value, videos] or a value each)."""
    found = {}
    for name in BOUNDS:
        if name in record:
            value = record[name]
            found[name] = float(value[0] if isinstance(value, list | tuple) else value)
    if not found:
        raise InputError("results: none of VBench's dimensions is in it; give a *_eval_results.json")
    return found


def _asked(
    name: str,
    videos: Iterable[Video],
    asked: Sequence[str],
    expert: Any,
    needs: str,
    measure: Callable[[Video, str], float],
) -> Score:
    protocol = f"{needs}, {SAMPLED} middle frames, VBench's rule"
    if expert is None:
        why = f"needs {needs} (--observations FILE)"
        return not_computed(f"vbench_{name}_raw", why, protocol=protocol)
    each, long = [], 0
    for video, what in zip(videos, asked, strict=True):
        each.append(over_pieces(video, name, measure, what))
        long += is_long(video)
    settings = {"network": expert.name} | ({"long_videos": long} if long else {})
    return mean_score(f"vbench_{name}_raw", each, clusters=list(asked), protocol=protocol, settings=settings)


def _sampled(video: Video) -> np.ndarray:
    return video.frames[middle_frames(len(video))]


def _name(video: Video) -> str:
    return str(video.manifest.get("file", ""))


def _share(found: Iterator[bool]) -> float:
    values = list(found)
    return sum(values) / len(values) if values else 0.0


def _enough(pairs: Iterable[float], limit: float, needed: int) -> bool:
    values = list(pairs)
    return bool(values) and sum(value > limit for value in values) >= needed
