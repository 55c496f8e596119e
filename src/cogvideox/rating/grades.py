"""Human evaluation by grades, as the paper does it: four aspects and a total for each video (Table 4, appendix).

The criteria are those of Tables 10 to 13, restated. The total is a grade of its own, 0 to 5 and at most 2 where the
instruction is not followed: the printed totals are not the sums of the printed means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import LEAST_PROMPTS, Score, mean_score
from cogvideox.rating.agreement import (
    agreement_note,
    cell_text,
    interval_text,
    krippendorff_alpha,
    verdict_text,
)

GRADES = (0.0, 0.5, 1.0)
MOST_TOTAL, CAP = 5.0, 2.0

ASPECTS: dict[str, tuple[str, dict[float, str]]] = {
    "sensory": (
        "Sensory quality",
        {
            1.0: "Things keep their look and shape throughout; sharp, steady, pleasing; composed as in reality.",
            0.5: "At least four fifths consistent; about half of the frames sharp; mostly realistic; some appeal.",
            0.0: "Large inconsistencies, low resolution, or a layout that cannot be.",
        },
    ),
    "instruction": (
        "Instruction following",
        {
            1.0: "Everything asked for is there: every element, the right number, complete, with the right features.",
            0.5: "Everything asked for is there, with small flaws: a distorted subject, an inexact feature.",
            0.0: "An element is wrong or missing, a number is wrong, or a feature is not as asked.",
        },
    ),
    "physics": (
        "Physics simulation",
        {
            1.0: "Movement, light and shadow, contact and fluids behave as they do in the world.",
            0.5: "Slightly unnatural: a light that does not fit, a distorted contact, a fluid that floats.",
            0.0: "Plainly fake.",
        },
    ),
    "cover": (
        "Cover quality",
        {
            1.0: "The first picture is clear, its subject obvious and complete, its colours normal.",
            0.5: "Of average clarity, its subject mostly complete.",
            0.0: "Of low resolution, or blurred.",
        },
    ),
}
PAPER = {
    "Kling (paper)": (0.638, 0.367, 0.561, 0.668, 2.17),
    "CogVideoX-5B (paper)": (0.722, 0.495, 0.667, 0.712, 2.74),
}
"""Rows of the paper's Table 4: each aspect in the order of ASPECTS, then the total."""


@dataclass(frozen=True)
class Rating:
    """One rater's grades of one video. ``total`` is as given; ``capped`` is the total that scores use."""

    rater: str
    model: str
    item: str  # the prompt, the same for all models
    aspects: Mapping[str, float]
    total: float

    def __post_init__(self) -> None:
        if set(self.aspects) != set(ASPECTS) or any(value not in GRADES for value in self.aspects.values()):
            raise InputError(f"aspects {dict(self.aspects)}: each of {', '.join(ASPECTS)} gets 0, 0.5 or 1")
        if not 0 <= self.total <= MOST_TOTAL:
            raise InputError(f"total {self.total}: must lie between 0 and {MOST_TOTAL:g}")

    @property
    def capped(self) -> float:
        """The total, limited to 2 when the grade for instruction following is 0."""
        return capped_total(self.total, self.aspects["instruction"])


def capped_total(total: float, instruction: float) -> float:
    """``total``, limited to 2 when the grade for instruction following is 0."""
    return min(total, CAP) if instruction == 0 else total


def model_scores(ratings: Sequence[Rating], model: str) -> dict[str, Score]:
    """Mean of each aspect, of the capped total, and the share of ratings that were capped, with 95 % intervals by
    bootstrap over prompts (all ratings of a prompt together)."""
    chosen = [rating for rating in ratings if rating.model == model]
    items = [rating.item for rating in chosen]
    values: dict[str, list[float]] = {name: [r.aspects[name] for r in chosen] for name in ASPECTS}
    values["total"] = [rating.capped for rating in chosen]
    values["capped_share"] = [float(rating.capped < rating.total) for rating in chosen]
    protocol = "people, prompts resampled whole"
    return {
        name: mean_score(f"human_{name}", each, clusters=items, protocol=protocol, why="nobody rated it")
        for name, each in values.items()
    }


def table_4(ratings: Sequence[Rating], beside_paper: bool = True) -> str:
    """Markdown like the paper's Table 4: one row per model with intervals, then the paper's own rows."""
    heads = [title for title, _ in ASPECTS.values()]
    lines = [f"| model | {' | '.join(heads)} | Total | ratings |", "|---" * (len(heads) + 3) + "|"]
    for model in sorted({rating.model for rating in ratings}):
        scores = model_scores(ratings, model)
        cells = [_cell(scores[name]) for name in (*ASPECTS, "total")]
        count = sum(rating.model == model for rating in ratings)
        lines.append(f"| {cell_text(model)} | {' | '.join(cells)} | {count} |")
    for model, row in PAPER.items() if beside_paper else ():
        lines.append(f"| {model} | {' | '.join(f'{value:.3g}' for value in row)} | |")
    return "\n".join(lines)


def rater_agreement(ratings: Sequence[Rating]) -> dict[str, float | None]:
    """Krippendorff's alpha of each aspect (ordinal) and of the capped total (interval); None where no two
    raters rated the same video."""
    units = sorted({(rating.model, rating.item) for rating in ratings})
    raters = sorted({rating.rater for rating in ratings})
    found: dict[str, float | None] = {}
    for name in (*ASPECTS, "total"):
        grid = np.full((len(raters), len(units)), np.nan)
        for rating in ratings:
            value = rating.capped if name == "total" else rating.aspects[name]
            grid[raters.index(rating.rater), units.index((rating.model, rating.item))] = value
        found[name] = krippendorff_alpha(grid, "interval" if name == "total" else "ordinal")
    return found


def differences(ratings: Sequence[Rating], least: int = LEAST_PROMPTS) -> list[str]:
    """One line of text for every two models: the difference of their totals on the prompts of both, which is better (or
    undecided), and how far the raters agree. No verdict below ``least`` prompts."""
    found = []
    for a, b in combinations(sorted({rating.model for rating in ratings}), 2):
        both = [rating for rating in ratings if rating.model in (a, b)]
        means = [_by_item(both, model) for model in (a, b)]
        items = sorted(means[0].keys() & means[1].keys())
        score = mean_score("difference", [means[0][item] - means[1][item] for item in items])
        if score.value is not None:
            first, second = cell_text(a), cell_text(b)
            difference = f"total {score.value:+.2f}{interval_text(score)} on {len(items)} prompts"
            verdict = verdict_text(score, first, second, len(items), least)
            note = agreement_note(rater_agreement(both)["total"])
            found.append(f"{first} - {second}: {difference}: {verdict}{note}")
    return found


def _by_item(ratings: Sequence[Rating], model: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for rating in ratings:
        if rating.model == model:
            values.setdefault(rating.item, []).append(rating.capped)
    return {item: float(np.mean(each)) for item, each in values.items()}


def _cell(score: Score) -> str:
    return "" if score.value is None else f"{score.value:.3g}{interval_text(score)}"
