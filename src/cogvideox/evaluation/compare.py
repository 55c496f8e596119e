"""Is one run better than another? Paired on what both made videos for; better, worse or undecided, nothing between.

Below ``LEAST_PROMPTS`` prompts there is no verdict, whatever the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.report import ScoreReport, number
from cogvideox.evaluation.score import LEAST_PROMPTS, Score, mean_interval


@dataclass(frozen=True)
class PairedDifference:
    """This run minus the other one. ``pairs``: how many videos of each it stands on; 0 for measures of whole sets."""

    name: str
    this: float
    other: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    prompts: int  # how many different ones it stands on
    verdict: str  # better, worse, undecided, different where neither direction is better, or TOO_FEW


TOO_FEW = "too few prompts"


def compare(this: ScoreReport, other: ScoreReport, least: int = LEAST_PROMPTS) -> list[PairedDifference]:
    """One difference per score that both have; without a verdict for those that stand on fewer than ``least`` prompts.

    Raises InputError when the reports share no score or no video.
    """
    pairs, clusters = _pairs(this, other)
    theirs = {score.name: score for score in other.scores}
    found = []
    for score in this.scores:
        match = theirs.get(score.name)
        if match is None or score.value is None or match.value is None:
            continue
        if score.settings.get("extractor") != match.settings.get("extractor"):
            raise InputError(
                f"{score.name}: the two runs used different feature networks; evaluate one of them again"
            )
        whole = min(_prompts(this), _prompts(other))
        found.append(_paired(score, match, pairs, clusters) if score.each else _of_sets(score, match, whole))
    kept = [_with_enough(each, least) for each in found if each is not None]
    if not kept:
        raise InputError(
            "compare: the two runs share no score of the same videos; use one suite and one set of prompts"
        )
    return kept


def table(differences: Sequence[PairedDifference]) -> str:
    """Markdown."""
    lines = ["| score | this | other | difference | 95 % interval | pairs | verdict |", "|---" * 7 + "|"]
    for each in differences:
        between = "" if each.low is None else f"{number(each.low)} to {number(each.high)}"
        numbers = " | ".join(map(number, (each.this, each.other, each.difference)))
        lines.append(f"| {each.name} | {numbers} | {between} | {each.pairs or 'sets'} | {each.verdict} |")
    few = [each.prompts for each in differences if each.verdict == TOO_FEW]
    if few:
        lines += [
            "",
            f"No verdict on {min(few)} prompts: {LEAST_PROMPTS} are needed; make videos for more of them.",
        ]
    return "\n".join(lines)


def _with_enough(found: PairedDifference, least: int) -> PairedDifference:
    return found if found.prompts >= least else replace(found, verdict=TOO_FEW)


def _prompts(report: ScoreReport) -> int:
    return len({video["prompt"] or _stem(video["name"]) for video in report.videos})


def _paired(
    score: Score, match: Score, pairs: list[tuple[int, int]], clusters: list[Any]
) -> PairedDifference | None:
    """Bootstrap of the mean difference over pairs, all pairs of a prompt together."""
    both = [(score.each[a], match.each[b], c) for (a, b), c in zip(pairs, clusters, strict=True)]
    both = [row for row in both if math.isfinite(row[0]) and math.isfinite(row[1])]
    if not both:
        return None
    first, second = (np.array([row[place] for row in both], float) for place in (0, 1))
    prompts = [row[2] for row in both]
    low, high = mean_interval(first - second, prompts)
    counts = len(both), len(set(prompts))
    return _judged(score, float(first.mean()), float(second.mean()), low, high, counts)


def _of_sets(score: Score, match: Score, prompts: int) -> PairedDifference | None:
    """Two numbers with their own intervals, taken as independent: cautious, since they share their references."""
    if score.low is None or match.low is None:
        return _judged(score, score.value, match.value, None, None, (0, prompts))
    half = math.hypot((score.high - score.low) / 2, (match.high - match.low) / 2)
    difference = score.value - match.value
    return _judged(score, score.value, match.value, difference - half, difference + half, (0, prompts))


def _judged(
    score: Score, this: float, other: float, low: float | None, high: float | None, counts: tuple[int, int]
) -> PairedDifference:
    verdict = "undecided"
    if low is not None and (low > 0 or high < 0):
        up = low > 0
        verdict = (
            "different"
            if score.better == "neither"
            else "better"
            if up == (score.better == "higher")
            else "worse"
        )
    return PairedDifference(score.name, this, other, this - other, low, high, *counts, verdict)


def _pairs(this: ScoreReport, other: ScoreReport) -> tuple[list[tuple[int, int]], list[Any]]:
    """Places of the same video in both (same name without its ending), and the prompt of each."""
    theirs = {_stem(video["name"]): place for place, video in enumerate(other.videos)}
    pairs, clusters = [], []
    for place, video in enumerate(this.videos):
        stem = _stem(video["name"])
        if stem in theirs:
            pairs.append((place, theirs[stem]))
            clusters.append(video["prompt"] or stem)
    return pairs, clusters


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
