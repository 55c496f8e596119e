"""VBench's rules as published (Huang et al. 2024), five of which Table 3 uses, and its totals; long videos as
VBench-Long does.

A rule is exact only with the network it was published with. Each function takes that network behind a protocol of
``perception.experts`` and says "not computed" without it.

VBench-Long cuts a long video into clips of 2 s, or of 10 s where its network was trained on longer ones, scores each by
the rule for short videos and averages. It names no length at which a video is long: here that is more than its longest
clip, so that the paper's videos of 6 and 10 s are scored whole, as the paper's were. Differs: cuts between scenes are
not looked for, and every video weighs the same, however many clips it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.embedding import ImageText
from cogvideox.perception.experts import ActionClassifier, CaptionExpert, Detector, FlowMagnitudes
from cogvideox.video import Video

SAMPLED = 16  # frames
SURE = 0.85  # of an action
BEST = 5  # actions that count
LIMIT = 6.0  # pixels of flow at a short side of 256
STILL_LIMIT = 3.0  # the same, for the filter of temporal flickering
LONG = 10.0  # seconds; longer videos are cut into clips
CLIP_SECONDS, LONGER_CLIP_SECONDS = 2.0, {"human_action": 10.0}

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
"""Lowest and highest raw value of each dimension, by which VBench normalises: 7 of quality, 9 semantic."""
QUALITY, SEMANTIC = tuple(BOUNDS)[:7], tuple(BOUNDS)[7:]


def human_action(
    videos: Iterable[Video], actions: Sequence[str], classifier: ActionClassifier | None
) -> Score:
    """Share of videos whose action is among the five likeliest and at least .85 likely."""

    def holds(video: Video, action: str) -> float:
        assert classifier is not None  # else _dimension does not measure
        likely = classifier(_sampled(video), _file_name(video))
        best = sorted(likely.items(), key=lambda item: -item[1])[:BEST]
        return float(any(label.lower() == action and round(p, 4) >= SURE for label, p in best))

    return _dimension(
        "human_action", videos, [a.lower() for a in actions], classifier, "UMT-L/16 (K400)", holds
    )


def action_of(prompt: str) -> str:
    """What VBench reads from a prompt such as "A person is riding a bike"; its cut at "-" and "_" included."""
    return prompt.lower().split("-")[0].split("person is ")[-1].split("_")[0]


def scene(videos: Iterable[Video], scenes: Sequence[str], captioner: CaptionExpert | None) -> Score:
    """Share of frames whose caption contains every word of the scene's name."""

    def share(video: Video, name: str) -> float:
        assert captioner is not None  # else _dimension does not measure
        captions = captioner(_sampled(video), _file_name(video))
        return _share([all(word in caption for word in name.split(" ")) for caption in captions])

    return _dimension("scene", videos, scenes, captioner, "Tag2Text Swin-B", share)


def multiple_objects(videos: Iterable[Video], objects: Sequence[str], detector: Detector | None) -> Score:
    """Share of frames in which both things of "a and b" are detected."""

    def share(video: Video, both: str) -> float:
        assert detector is not None  # else _dimension does not measure
        first, second = (name.strip() for name in both.split(" and "))
        detected = detector(_sampled(video), _file_name(video))
        return _share([first in names and second in names for names in detected])

    return _dimension("multiple_objects", videos, objects, detector, "GRiT-B (detection)", share)


def _dimension(
    dimension: str,
    videos: Iterable[Video],
    facts: Sequence[str],
    expert: Any,
    needs: str,
    measure: Callable[[Video, str], float],
) -> Score:
    """A dimension whose rule compares what an expert reports with a fact of the prompt."""
    name, protocol = f"vbench_{dimension}_raw", f"{needs}, {SAMPLED} middle frames, VBench's rule"
    if expert is None:
        return not_computed(name, f"needs {needs} (--observations FILE)", protocol=protocol)
    each, long = [], 0
    for video, fact in zip(videos, facts, strict=True):
        each.append(clip_mean(video, dimension, measure, fact))
        long += is_long(video)
    settings = {"network": expert.name} | ({"long_videos": long} if long else {})
    return mean_score(name, each, clusters=list(facts), protocol=protocol, settings=settings)


def appearance_style(videos: Iterable[Video], styles: Sequence[str], clip: ImageText | None) -> Score:
    """Similarity of every frame with the name of the style alone, CLIP ViT-B/32; the mean of all frames of all videos.

    Videos of different lengths count by their frames, as published.
    """
    name, protocol = "vbench_appearance_style_raw", "CLIP similarity of all frames with the style alone"
    if clip is None:
        return not_computed(name, "needs CLIP ViT-B/32 weights (--clip FOLDER)", protocol=protocol)
    each, frames = [], []
    for video, style in zip(videos, styles, strict=True):
        similar = clip.images(video.frames) @ clip.texts([style])[0]
        each.append(float(similar.mean()))
        frames.append(len(video))
    score = mean_score(name, each, protocol=protocol, settings={"network": clip.name})
    if score.value is None or len(set(frames)) == 1:
        return score
    return replace(score, value=float(np.average(each, weights=frames)))


def dynamic_degree(videos: Iterable[Video], flow: FlowMagnitudes | None) -> Score:
    """Share of videos that move: see ``moves``."""
    name, protocol = "vbench_dynamic_degree_raw", "RAFT flow at about 8 fps, top 5 % over 6 pixels at 256"
    if flow is None:
        return not_computed(name, "needs RAFT-things flow (--observations FILE)", protocol=protocol)

    def moving(video: Video) -> float:
        frames = frames_at_8_fps(video)
        short = min(video.height, video.width)
        return float(moves(flow(frames, _file_name(video)), len(frames), short, video.fps))

    each, long = [], 0
    for video in videos:
        each.append(clip_mean(video, "dynamic_degree", moving))
        long += is_long(video)
    settings = {"network": flow.name} | ({"long_videos": long} if long else {})
    return mean_score(name, each, binary=not long, protocol=protocol, settings=settings)


def moves(pairs: Iterable[float], frames: int, short: int, fps: float = 8.0) -> bool:
    """Whether at least round(4 n / 16) pairs of n frames exceed 6 pixels at a short side of 256.

    ``pairs``: the mean of the largest 5 % of flow in each. Rates below 8 raise the limit by 8 / fps (VBench's later
    code; no difference at 8 and above). Two frames need round(0.5) = 0 pairs, so they always move, as published.
    """
    limit, needed = max(1.0, 8.0 / fps) * LIMIT * short / 256, round(4 * frames / 16)
    return _enough(pairs, limit, needed)


def is_still(pairs: Iterable[float], first_last: float, frames: int, short: int) -> bool:
    """VBench's filter before temporal flickering: fewer than round(2 n / 16) pairs of n frames exceed 3 pixels at 256.

    ``pairs``: the mean of the largest 2 % of flow in each; ``first_last``: that from the first frame to the last, whose
    limit is twice as high.
    """
    limit, needed = STILL_LIMIT * short / 256, round(2 * frames / 16)
    return not (_enough(pairs, limit, needed) or first_last > 2 * limit)


def _enough(pairs: Iterable[float], limit: float, needed: int) -> bool:
    values = list(pairs)
    return bool(values) and sum(value > limit for value in values) >= needed


def read_results(record: Any) -> dict[str, float]:
    """Dimension -> raw value of 0..1 from a results file of VBench, which holds [value, videos] or a value for each.

    Raises InputError for a file without any of the dimensions.
    """
    record = record if isinstance(record, dict) else {}
    known = {name: record[name] for name in BOUNDS if name in record}
    try:
        values = {name: float(each[0] if isinstance(each, list) else each) for name, each in known.items()}
    except (TypeError, ValueError, IndexError):
        values = {}
    if not values:
        raise InputError("holds no values of VBench's dimensions; give a *_eval_results.json of VBench")
    return values


def total(raw: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score from the raw values of all sixteen dimensions. Raises InputError."""
    missing = sorted(BOUNDS.keys() - raw.keys())
    if missing:
        raise InputError(
            f"total: {len(missing)} of 16 dimensions are missing ({', '.join(missing[:4])}, ...)"
        )
    value = {name: (raw[name] - low) / (high - low) for name, (low, high) in BOUNDS.items()}
    weight = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in QUALITY}
    quality = sum(weight[name] * value[name] for name in QUALITY) / sum(weight.values())
    return combine(quality, sum(value[name] for name in SEMANTIC) / len(SEMANTIC))


def combine(quality: float, semantic: float) -> dict[str, float]:
    """VBench's total, (4 quality + semantic) / 5, with both."""
    return {"quality": quality, "semantic": semantic, "total": (4 * quality + semantic) / 5}


def totals(raw: Mapping[str, float] | None) -> list[Score]:
    """VBench's three totals as scores; not computed without the raw values of all its dimensions."""
    try:
        values = total(raw) if raw else {}
        why = "needs the results of VBench's own evaluation (--vbench-results FILE)"
    except InputError as error:
        values, why = {}, str(error)
    protocol = "normalised by VBench's bounds; total = (4 quality + semantic) / 5"
    return [
        Score(f"vbench_{name}", values[name], protocol=protocol)
        if values
        else not_computed(f"vbench_{name}", why, protocol=protocol)
        for name in ("quality", "semantic", "total")
    ]


def export_name(prompt: str, number: int, suffix: str = ".mp4") -> str:
    """``<prompt>-<number>.mp4``, as VBench looks for videos. Raises InputError for prompts no file name can hold."""
    name = f"{prompt}-{number}{suffix}"
    if "/" in prompt or "\0" in prompt or not prompt.strip() or len(name.encode()) > 255:
        raise InputError(f"prompt {prompt[:60]!r}: cannot be a file name; VBench's own prompts all can")
    return name


def import_name(name: str) -> tuple[str, int]:
    """(prompt, number) from a file name of VBench. Raises InputError."""
    stem, dash, number = name.rpartition(".")[0].rpartition("-")
    if not (dash and stem and number.isdecimal()):
        raise InputError(f"{name!r}: not named <prompt>-<number>.mp4")
    return stem, int(number)


def middle_frames(total: int, wanted: int = SAMPLED) -> list[int]:
    """Indices of the middles of equal segments of ``total`` frames; the last one again where there are too few."""
    edges = np.linspace(0, total, min(wanted, total) + 1).astype(int)
    indices = [int(first + last - 1) // 2 for first, last in zip(edges[:-1], edges[1:], strict=True)]
    return indices + indices[-1:] * (wanted - len(indices))


def frames_at_8_fps(video: Video) -> np.ndarray:
    """Every round(fps / 8)-th frame: about 8 per second."""
    return video.frames[:: max(1, round(video.fps / 8))]


def is_long(video: Video) -> bool:
    """Whether a video is cut into clips, as VBench-Long does."""
    return len(video) > LONG * video.fps


def clips_of(video: Video, dimension: str) -> list[Video]:
    """A short video itself; a long one as clips of equal length, the last of which ends where the video does.

    Clips have the names that VBench-Long gives them, ``<name>_000.mp4`` ...: recorded observations stand under those.
    """
    if not is_long(video):
        return [video]
    frames = max(1, int(video.fps) * int(LONGER_CLIP_SECONDS.get(dimension, CLIP_SECONDS)))
    starts = [*range(0, len(video) - frames + 1, frames)]
    if starts[-1] + frames < len(video):
        starts.append(len(video) - frames)
    name = PurePath(_file_name(video))
    clips = []
    for number, first in enumerate(starts):
        file = {"file": str(name.with_stem(f"{name.stem}_{number:03d}"))} if name.stem else {}
        clips.append(
            replace(video, frames=video.frames[first : first + frames], manifest={**video.manifest, **file})
        )
    return clips


def clip_mean(video: Video, dimension: str, measure: Callable[..., float], *facts: str) -> float:
    """The rule for short videos, ``measure(clip, *facts)``, averaged over the clips of a long one."""
    values = [measure(clip, *facts) for clip in clips_of(video, dimension)]
    return sum(values) / len(values)


def _sampled(video: Video) -> np.ndarray:
    return video.frames[middle_frames(len(video))]


def _file_name(video: Video) -> str:
    """Under which recorded experts have their answers."""
    return str(video.manifest.get("file", ""))


def _share(holds: list[bool]) -> float:
    return sum(holds) / len(holds) if holds else 0.0
