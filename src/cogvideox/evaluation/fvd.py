"""Distances between two sets of clips through the features of a network: Frechet (FVD) and polynomial MMD.

The Frechet distance of few videos is too large (about dim^2 / 2N feature variances too large when the two sets
are alike), so it comes in two forms: as everybody computes it, and extrapolated to endless videos by a line in
1/N. Both have an interval. Compare only equal cards and, for the plain form, equal numbers of videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import Score, not_computed
from cogvideox.perception.features import FeatureCard, FeatureExtractor
from cogvideox.video import Video

GROUPS = 20  # of the jackknife
SIZES = 6  # subsets of the extrapolation, from half of the videos to all
REPEATS = 4
LEAST = 8  # videos on each side
Distance = Callable[[np.ndarray, np.ndarray], float]


def features_of(videos: Iterable[Video], extractor: FeatureExtractor) -> np.ndarray:
    """float64 ``[n, dim]``."""
    return extractor(video.frames for video in videos)


def fvd(
    videos: Iterable[Video],
    references: Iterable[Video],
    extractor: FeatureExtractor,
    extrapolate: bool = False,
    seed: int = 0,
) -> Score:
    """Frechet video distance (Unterthiner et al. 2018) of generated to real videos."""
    pair = features_of(videos, extractor), features_of(references, extractor)
    return (fvd_extrapolated if extrapolate else fvd_of_features)(*pair, extractor.card, seed)


def fvd_of_features(a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0) -> Score:
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
    return _with_interval(score, frechet, a, b)


def fvd_extrapolated(a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0) -> Score:
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
    return _with_interval(score, intercept, a, b)


def kernel_distance(a: np.ndarray, b: np.ndarray, card: FeatureCard, seed: int = 0) -> Score:
    """100 x MMD with the polynomial kernel of JEDi (Luo et al. 2024): degree 2, gamma 1/dim, no constant."""
    a, b, problem = _equal_sets(a, b, card, seed)
    name = f"mmd_poly_{card.name}"
    if problem:
        return _set_score(name, card, 0, problem)
    return _with_interval(_set_score(name, card, len(a), ""), lambda x, y: 100 * mmd_poly(x, y), a, b)


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


def intercept(a: np.ndarray, b: np.ndarray) -> float:
    """Where the line through (1/n, distance of subsets of n) meets 1/n = 0; rows must be in random order.

    Subsets are runs of rows that begin at evenly spaced places: without one group of rows they are nearly the same
    subsets, so that the jackknife sees the rows and not the drawing of subsets.
    """
    n = min(len(a), len(b))
    sizes = np.linspace(n / 2, n, SIZES).round().astype(int)
    means = []
    for size in sizes:
        starts = [n * place // REPEATS for place in range(REPEATS)] if size < n else [0]
        means.append(np.mean([frechet(np.roll(a, -s, 0)[:size], np.roll(b, -s, 0)[:size]) for s in starts]))
    return float(np.polyfit(1 / sizes, means, 1)[1])


def _with_interval(score: Score, distance: Distance, a: np.ndarray, b: np.ndarray) -> Score:
    """Delete-a-group jackknife: a bootstrap would see the same video twice, which this distance punishes."""
    groups = min(GROUPS, len(a))
    part = np.arange(len(a)) % groups
    value = distance(a, b)
    left_out = np.array([distance(a[part != g], b[part != g]) for g in range(groups)])
    half = 2.093 * float(
        np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
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
