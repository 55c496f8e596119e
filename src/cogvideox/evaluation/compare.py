"""Is one run better than another? Differences paired by video, and a verdict: better, worse or undecided.

Below ``LEAST_PROMPTS`` prompts there is no verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import LEAST_PROMPTS, Score, mean_interval, number


@dataclass(frozen=True)
class PairedDifference:
    """One score of this run minus that of the other. ``pairs``: videos of each; 0 for metrics of whole sets."""

    name: str
    this: float
    other: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    prompts: int  # how many different ones
    verdict: str  # better, worse, undecided, different where neither direction is better, or TOO_FEW

    @property
    def interval(self) -> str:
        """'low to high'; '' where there is none."""
        return "" if self.low is None else f"{number(self.low)} to {number(self.high)}"


TOO_FEW = "too few prompts"


def compare(this: ScoreReport, other: ScoreReport, least: int = LEAST_PROMPTS) -> list[PairedDifference]:
    """One difference per score that both have; without a verdict for those that stand on fewer than ``least`` prompts.

    Raises InputError when the reports share no score or no video.
    """
    pairs, clusters = _pairs(this, other)
    theirs = {score.name: score for score in other.scores}
    differences: list[PairedDifference] = []
    whole = min(_prompts(this), _prompts(other))
    for score in this.scores:
        match = theirs.get(score.name)
        if match is None or score.value is None or match.value is None:
            continue
        if score.settings.get("extractor") != match.settings.get("extractor"):
            raise InputError(
                f"{score.name}: the two runs used different feature networks; evaluate one of them again"
            )
        each = _paired(score, match, pairs, clusters) if score.each else _of_sets(score, match, whole)
        if each is not None:
            differences.append(each if each.prompts >= least else replace(each, verdict=TOO_FEW))
    if not differences:
        raise InputError(
            "compare: the two runs share no score of the same videos; use one suite and one set of prompts"
        )
    return differences


def table(differences: Sequence[PairedDifference]) -> str:
    """Markdown: one line per difference, and how many prompts a verdict needs where there are too few."""
    lines = ["| score | this | other | difference | 95 % interval | pairs | verdict |", "|---" * 7 + "|"]
    for each in differences:
        numbers = " | ".join(map(number, (each.this, each.other, each.difference)))
        lines.append(
            f"| {each.name} | {numbers} | {each.interval} | {each.pairs or 'sets'} | {each.verdict} |"
        )
    few = [each.prompts for each in differences if each.verdict == TOO_FEW]
    if few:
        lines += [
            "",
            f"No verdict on {min(few)} prompts: {LEAST_PROMPTS} are needed; make videos for more of them.",
        ]
    return "\n".join(lines)


def _prompts(report: ScoreReport) -> int:
    return len({video["prompt"] or _stem(video["name"]) for video in report.videos})


def _paired(
    score: Score, match: Score, pairs: list[tuple[int, int]], clusters: list[Any]
) -> PairedDifference | None:
    """Bootstrap of the mean difference over pairs, all pairs of a prompt together."""
    both = [(score.each[a], match.each[b], c) for (a, b), c in zip(pairs, clusters, strict=True)]
    both = [(a, b, c) for a, b, c in both if math.isfinite(a) and math.isfinite(b)]
    if not both:
        return None
    first, second = np.array([a for a, _, _ in both]), np.array([b for _, b, _ in both])
    prompts = [cluster for _, _, cluster in both]
    low, high = mean_interval(first - second, prompts)
    counts = len(both), len(set(prompts))
    return _judged(score, float(first.mean()), float(second.mean()), low, high, counts)


def _of_sets(score: Score, match: Score, prompts: int) -> PairedDifference:
    """Two numbers with their own intervals, taken as independent: cautious, since they share their references."""
    assert score.value is not None and match.value is not None  # ``compare`` passes computed scores only
    if score.low is None or score.high is None or match.low is None or match.high is None:
        return _judged(score, score.value, match.value, None, None, (0, prompts))
    half = math.hypot((score.high - score.low) / 2, (match.high - match.low) / 2)
    difference = score.value - match.value
    return _judged(score, score.value, match.value, difference - half, difference + half, (0, prompts))


def _judged(
    score: Score, this: float, other: float, low: float | None, high: float | None, counts: tuple[int, int]
) -> PairedDifference:
    verdict = "undecided"
    if low is not None and high is not None and (low > 0 or high < 0):
        improved = "better" if (low > 0) == (score.better == "higher") else "worse"
        verdict = "different" if score.better == "neither" else improved
    return PairedDifference(score.name, this, other, this - other, low, high, *counts, verdict)


def _pairs(this: ScoreReport, other: ScoreReport) -> tuple[list[tuple[int, int]], list[Any]]:
    """(index here, index there) of each video that both have (same name without its ending), and its prompt."""
    theirs = {_stem(video["name"]): index for index, video in enumerate(other.videos)}
    pairs, clusters = [], []
    for index, video in enumerate(this.videos):
        stem = _stem(video["name"])
        if stem in theirs:
            pairs.append((index, theirs[stem]))
            clusters.append(video["prompt"] or stem)
    return pairs, clusters


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
