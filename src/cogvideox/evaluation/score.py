"""Score = a number with its interval, protocol, version and the number of videos it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.score import wilson

Better = Literal["higher", "lower", "neither"]
BOOTSTRAPS = 2000
LEAST_PROMPTS = 20
"""Prompts below which no verdict is given: a single prompt decides, and intervals cover too seldom."""


@dataclass(frozen=True)
class Score:
    """One metric of a set of videos.

    ``value`` is None when it was not computed, and ``why`` then says what is missing. ``low`` and ``high``: 95 %
    confidence interval; None where fewer than two videos have a value. ``each``: one value per video in their order,
    NaN for a video that the metric does not apply to; empty for metrics of whole sets. ``settings``: what decided the
    value.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    videos: int = 0
    better: Better = "higher"
    unit: str = ""
    protocol: str = ""
    version: str = "1"
    why: str = ""
    each: tuple[float, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        record = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {**record, "each": [None if math.isnan(value) else value for value in self.each]}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Score:
        """The inverse of ``to_dict``. Raises InputError."""
        try:
            each = tuple(math.nan if value is None else float(value) for value in record.get("each", ()))
            return cls(**{**record, "each": each})
        except TypeError as error:
            raise InputError(
                f"score {record.get('name', '?')!r}: {error}; written by another version?"
            ) from None

    @property
    def interval(self) -> str:
        """'low to high' with four significant digits; '' where there is none."""
        return "" if self.low is None else f"{number(self.low)} to {number(self.high)}"

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: not computed ({self.why})"
        between = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.name}: {self.value:.4g}{between} {self.unit}".rstrip() + f", {self.videos} videos"


def mean_score(
    name: str,
    each: Sequence[float],
    *,
    clusters: Sequence[Any] | None = None,
    seed: int = 0,
    binary: bool = False,
    **rest: Any,
) -> Score:
    """The mean of one value per video, with its bootstrap interval; NaN values are left out.

    ``clusters``: the prompt of each video, so that all seeds of one prompt are resampled together. ``binary``: values
    are 0 or 1; where all are equal, resampling shows no doubt, and Wilson's interval does.
    """
    values = np.asarray(each, dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return not_computed(name, rest.pop("why", "") or "no video it applies to", each=tuple(values), **rest)
    groups = None if clusters is None else [c for c, k in zip(clusters, known, strict=True) if k]
    low, high = mean_interval(values[known], groups, seed)
    if binary and low == high and low is not None:
        num = len(set(groups)) if groups is not None else int(known.sum())
        low, high = wilson(round(low * num), num)
    mean = float(values[known].mean())
    return Score(name, mean, low, high, int(known.sum()), each=tuple(map(float, values)), **rest)


def median_score(
    name: str, each: Sequence[float], *, clusters: Sequence[Any] | None = None, seed: int = 0, **rest: Any
) -> Score:
    """The median of one value per video, with its bootstrap interval over whole clusters; NaN values are left out."""
    values = np.asarray(each, dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return not_computed(name, rest.pop("why", "") or "no video it applies to", each=tuple(values), **rest)
    names = range(len(values)) if clusters is None else clusters
    groups: dict[Any, list[float]] = {}
    for cluster, value in zip(names, values, strict=True):
        if np.isfinite(value):
            groups.setdefault(cluster, []).append(float(value))
    low, high = _median_interval(list(groups.values()), seed)
    median = float(np.median(values[known]))
    return Score(name, median, low, high, int(known.sum()), each=tuple(map(float, values)), **rest)


def _median_interval(clusters: Sequence[Sequence[float]], seed: int) -> tuple[float | None, float | None]:
    """95 % bootstrap of a median, whole clusters at a time; (None, None) for fewer than two clusters."""
    if len(clusters) < 2:
        return None, None
    draws = np.random.default_rng(seed).integers(len(clusters), size=(BOOTSTRAPS, len(clusters)))
    medians = [float(np.median(np.concatenate([clusters[i] for i in draw]))) for draw in draws]
    low, high = np.percentile(medians, expanded_percentiles(len(clusters)))
    return float(low), float(high)


def not_computed(name: str, why: str, **rest: Any) -> Score:
    """A score without a value, and why."""
    return Score(name, None, why=why, **rest)


def mean_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | None = None,
    seed: int = 0,
    rounds: int = BOOTSTRAPS,
) -> tuple[float | None, float | None]:
    """95 % bootstrap of a mean, whole clusters at a time; (None, None) for fewer than two clusters.

    The percentiles are a little wider than 2.5 and 97.5 (Hesterberg 2015), since plain ones cover too seldom.
    """
    totals, sizes = _by_cluster(np.asarray(values, dtype=float), clusters)
    if len(totals) < 2:
        return None, None
    means = _resampled_means(totals, sizes, seed, rounds)
    low, high = np.percentile(means, expanded_percentiles(len(totals)))
    return float(low), float(high)


def expanded_percentiles(clusters: int) -> tuple[float, float]:
    """(lower, upper) percentile for the bootstrap of a mean over so many clusters (Hesterberg 2015): those of
    sqrt(n / (n - 1)) times Student's t.
    """
    z, freedom = 1.959964, clusters - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    outside = 50 * math.erfc(t * math.sqrt(clusters / freedom) / math.sqrt(2))
    return outside, 100 - outside


def _by_cluster(values: np.ndarray, clusters: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    cluster_of = np.array([numbers[name] for name in clusters], dtype=int)
    return np.bincount(cluster_of, values), np.bincount(cluster_of).astype(float)


def _resampled_means(totals: np.ndarray, sizes: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    n = len(totals)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rounds)
    return (draws @ totals) / (draws @ sizes)


def number(value: float | None) -> str:
    """Four significant digits; "" for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.4g}"
