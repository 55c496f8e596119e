"""Distances between two sets of videos through the features of a network: Frechet (FVD) and polynomial MMD (KVD).

The Frechet distance of few videos is too large (about dim^2 / 2N feature variances too large when the two sets
are alike), so it comes in two forms: as everybody computes it, and extrapolated to endless videos by a line in
1/N. Both have an interval. Compare only equal cards and, for the plain form, equal numbers of videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import Score, not_computed
from cogvideox.evaluation.video_folder import VideoFolder
from cogvideox.perception.features import FeatureCard, FeatureExtractor
from cogvideox.video import Video

GROUPS = 20  # of the jackknife
SIZES = 6  # subsets of the extrapolation, from half of the videos to all
REPEATS = 4
LEAST = 8  # videos on each side
ALIKE = 1.01  # rates that differ by less are one: 29.97 and 30
SetDistance = Callable[[np.ndarray, np.ndarray], float]
OnProgress = Callable[[int, int], Any] | None
"""Called with (done, total) of the jackknife's distances."""


@dataclass
class ResampledVideos:
    """Videos of one side at one rate, and what was left out: shorter than ``frames``, slower than ``fps``.

    ``fps``: the rate that all are brought to; None leaves each at its own. Counts are complete after iterating once.
    """

    videos: Iterable[Video]
    frames: int
    fps: float | None = None
    rates: list[float] = field(default_factory=list)
    too_short: int = 0
    too_slow: int = 0

    def __iter__(self) -> Iterator[Video]:
        self.rates, self.too_short, self.too_slow = [], 0, 0
        for video in self.videos:
            self.rates.append(video.fps)
            if self.fps is not None and video.fps < self.fps / ALIKE:
                self.too_slow += 1
                continue
            sampled = video if self.fps is None else resample(video, self.fps)
            if len(sampled) < self.frames:
                self.too_short += 1
                continue
            yield sampled


def resample(video: Video, fps: float) -> Video:
    """The frames that stand on the screen at 0, 1 / fps, 2 / fps, ... until the video ends."""
    if abs(video.fps - fps) < 1e-6 * fps:
        return video
    count = max(1, math.ceil(video.seconds * fps - 1e-6))
    indices = np.floor(np.arange(count) * video.fps / fps + 1e-6).astype(int)
    return Video(video.frames[np.minimum(indices, len(video) - 1)], fps, video.manifest)


def rates_differ(a: Sequence[float], b: Sequence[float]) -> str:
    """Why two sets of frame rates cannot be compared as they are; "" when all are equal to a hundredth."""
    rates = [*a, *b]
    if not a or not b or max(rates) <= min(rates) * ALIKE:
        return ""
    return f"videos have {_range(a)} frames a second and references {_range(b)}: motion would be compared at two speeds"


def _range(rates: Sequence[float]) -> str:
    low, high = min(rates), max(rates)
    return f"{low:g}" if high <= low * 1.001 else f"{low:g} to {high:g}"


def set_facts(videos: ResampledVideos, references: ResampledVideos) -> dict[str, Any]:
    """For a score's settings: the rate of both, what they had before, and how many were left out on each side."""
    sides = {"videos": videos, "references": references}
    return {
        "fps": videos.fps or (videos.rates[0] if videos.rates else None),
        **{f"fps_{name}": [min(s.rates), max(s.rates)] if s.rates else None for name, s in sides.items()},
        "too_short": {name: side.too_short for name, side in sides.items()},
        "too_slow": {name: side.too_slow for name, side in sides.items()},
    }


def left_out(facts: dict[str, Any], frames: int) -> str:
    """The counts of ``set_facts`` as a sentence; "" where nothing was left out."""
    reasons = []
    for kind, why in (
        ("too_short", f"shorter than {frames} frames"),
        ("too_slow", "slower than the common rate"),
    ):
        count = facts[kind]
        if any(count.values()):
            reasons.append(f"{count['videos']} videos and {count['references']} references {why} left out")
    return ", ".join(reasons)


def features_of(videos: Iterable[Video], extractor: FeatureExtractor) -> np.ndarray:
    """The features of each video by the network, float64 ``[n, dim]``."""
    return extractor(video.frames for video in videos)


def fvd(
    videos: Iterable[Video],
    references: Iterable[Video],
    extractor: FeatureExtractor,
    extrapolate: bool = False,
    seed: int = 0,
    fps: float | None = None,
) -> Score:
    """Frechet video distance (Unterthiner et al. 2018) of generated to real videos.

    fps: a rate that both are brought to. Clips that are slower, or then shorter than the network reads, are left out
    and counted in the settings. Raises InputError for unlike rates without ``fps``.
    """
    card = extractor.card
    sides = ResampledVideos(videos, card.frames, fps), ResampledVideos(references, card.frames, fps)
    features = [features_of(side, extractor) for side in sides]
    if fps is None and (why := rates_differ(sides[0].rates, sides[1].rates)):
        raise InputError(f"fvd: {why}; give fps")
    score = (fvd_extrapolated if extrapolate else fvd_of_features)(features[0], features[1], card, seed)
    return with_facts(score, set_facts(*sides), card)


def with_facts(score: Score, facts: dict[str, Any], card: FeatureCard) -> Score:
    """The score with ``set_facts`` in its settings and its protocol, or in its reason where it was not computed."""
    omitted = left_out(facts, card.frames)
    rate = f", at {facts['fps']:g} frames a second" if facts["fps"] else ""
    score = replace(score, settings={**score.settings, **facts, "left_out": omitted})
    if score.value is None:
        return replace(score, why=f"{score.why}; {omitted}" if omitted else score.why)
    return replace(score, protocol=score.protocol + rate + (f"; {omitted}" if omitted else ""))


def set_distances(
    videos: Sequence[Video],
    references: Sequence[Video],
    network: FeatureExtractor,
    fps: float | None = None,
    on_progress: OnProgress = None,
) -> list[Score]:
    """FVD, extrapolated FVD and KVD by one network, both sides at ``fps``; not computed where the rates differ."""
    card = network.card
    plain = f"fvd_{card.name}_{card.frames}f"
    names = (plain, f"{plain}_extrapolated", f"mmd_poly_{card.name}")
    if fps is None and (why := rates_differ(_rates(videos), _rates(references))):
        reason = f"{why}; bring both to one rate with --fvd-fps"
        return [not_computed(name, reason, better="lower") for name in names]
    sides = [ResampledVideos(side, card.frames, fps) for side in (videos, references)]
    a, b = (features_of(side, network) for side in sides)
    facts = set_facts(*sides)
    measures = (fvd_of_features, fvd_extrapolated, kvd_of_features)
    return [with_facts(measure(a, b, card, on_progress=on_progress), facts, card) for measure in measures]


def _rates(videos: Sequence[Video]) -> list[float]:
    """Frames a second of each video of a folder; rendered scenes have one rate, so the first is enough."""
    if isinstance(videos, VideoFolder):
        return [item.fps for item in videos.items]
    return [videos[0].fps] if len(videos) else []


def fvd_of_features(
    a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0, on_progress: OnProgress = None
) -> Score:
    """The plain distance of equally many features, as everybody reports it: too large by the floor in settings.

    ``settings["floor"]``: the distance of one half of the references to the other half, at half the number.
    """
    name = f"fvd_{card.name}_{card.frames}f"
    a, b, problem = _equal_sets(a, b, card, seed)
    if problem:
        return _set_score(name, card, 0, problem)
    half = len(b) // 2
    floor = frechet(b[:half], b[half : 2 * half]) if half >= LEAST // 2 else None
    score = _set_score(name, card, len(a), "", floor=floor, rank_deficient=len(a) <= card.dim)
    return _with_jackknife(score, frechet, a, b, on_progress)


def fvd_extrapolated(
    a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0, on_progress: OnProgress = None
) -> Score:
    """The distance that endless videos would have: the intercept of a line in 1/N through subsets (FVD-infinity).

    May come out below zero when the sets are alike. Not computed below twice as many videos as dimensions, where
    the line does not hold.
    """
    name = f"fvd_{card.name}_{card.frames}f_extrapolated"
    a, b, problem = _equal_sets(a, b, card, seed)
    if not problem and len(a) < 2 * card.dim:
        problem = f"{len(a)} videos: extrapolating {card.dim} dimensions needs {2 * card.dim}"
    if problem:
        return _set_score(name, card, 0, problem)
    score = _set_score(name, card, len(a), "", fit=f"{SIZES} sizes from N/2 to N, {REPEATS} subsets each")
    return _with_jackknife(score, extrapolated_frechet, a, b, on_progress)


def kvd_of_features(
    a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0, on_progress: OnProgress = None
) -> Score:
    """Kernel video distance: 100 x MMD with the polynomial kernel of JEDi (Luo et al. 2024): degree 2, gamma 1/dim, no
    constant."""
    a, b, problem = _equal_sets(a, b, card, seed)
    name = f"mmd_poly_{card.name}"
    if problem:
        return _set_score(name, card, 0, problem)
    return _with_jackknife(
        _set_score(name, card, len(a), ""), lambda x, y: 100 * mmd_poly(x, y), a, b, on_progress
    )


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets ``[n, dim]``; covariances divided by n - 1."""
    return frechet_of_gaussians(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def frechet_of_gaussians(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64.

    The trace of the root is the sum of the roots of the eigenvalues of R S_b R with R the symmetric root of S_a:
    no complex numbers, nothing added to the diagonal.
    """
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.maximum(middle, 0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def mmd_poly(
    a: np.ndarray, b: np.ndarray, degree: int = 2, gamma: float | None = None, coef0: float = 0.0
) -> float:
    """Squared maximum mean discrepancy under (gamma x.y + coef0)^degree: biased means over all pairs."""
    gamma = 1 / a.shape[1] if gamma is None else gamma

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(((gamma * (x @ y.T) + coef0) ** degree).mean())

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def extrapolated_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Where the line through (1/n, distance of subsets of n) meets 1/n = 0; features must be in random order.

    Subsets are runs of features that begin at evenly spaced indices: with a group of features left out they are nearly
    the same subsets, so that the jackknife measures the features and not the choice of subsets.
    """
    n = min(len(a), len(b))
    sizes = np.linspace(n / 2, n, SIZES).round().astype(int)
    means = []
    for size in sizes:
        starts = [n * run // REPEATS for run in range(REPEATS)] if size < n else [0]
        means.append(np.mean([frechet(np.roll(a, -s, 0)[:size], np.roll(b, -s, 0)[:size]) for s in starts]))
    return float(np.polyfit(1 / sizes, means, 1)[1])


def _with_jackknife(
    score: Score, distance: SetDistance, a: np.ndarray, b: np.ndarray, on_progress: OnProgress
) -> Score:
    """Delete-a-group jackknife: a bootstrap would see the same video twice, which this distance punishes."""
    groups = min(GROUPS, len(a))
    group = np.arange(len(a)) % groups
    value = distance(a, b)
    values = []
    for g in range(groups):
        if on_progress is not None:
            on_progress(g + 1, groups)
        values.append(distance(a[group != g], b[group != g]))
    values_left_out = np.array(values)
    half = 2.093 * float(
        np.sqrt((groups - 1) / groups * ((values_left_out - values_left_out.mean()) ** 2).sum())
    )  # t, 19 df
    return replace(score, value=value, low=value - half, high=value + half)


def _equal_sets(
    a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Equally many of both, in a random order that is the same every time; or why there is no distance."""
    for side in (a, b):
        if side.ndim != 2 or side.shape[1] != card.dim:
            raise InputError(f"features {list(side.shape)}: {card.name} gives [n, {card.dim}]")
    n = min(len(a), len(b))
    if n < LEAST:
        return a, b, f"{len(a)} videos and {len(b)} references: at least {LEAST} of each"
    rng = np.random.default_rng(seed)
    if len(a) == len(b):
        order = rng.permutation(n)
        return a[order], b[order], ""
    return a[rng.permutation(len(a))[:n]], b[rng.permutation(len(b))[:n]], ""


def _set_score(name: str, card: FeatureCard, videos: int, problem: str, **facts: Any) -> Score:
    protocol = f"first {card.frames} frames, {card.size}x{card.size} ({card.resize}), covariance over n - 1"
    settings = {"extractor": card.to_dict(), **facts}
    if problem:
        return not_computed(name, problem, better="lower", protocol=protocol, settings=settings)
    return Score(name, 0.0, videos=videos, better="lower", protocol=protocol, settings=settings)
