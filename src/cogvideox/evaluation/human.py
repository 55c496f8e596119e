"""What people say of videos: the paper's four aspects and total (Table 4), pairs, and how far raters agree.

The criteria are the paper's (appendix, human evaluation), restated. Its total is a grade of its own, 0 to 5 and at most
2 where the instruction is not followed: the printed totals are not the sums of the printed means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import LEAST_PROMPTS, Score, mean_score

GRADES = (0.0, 0.5, 1.0)
MOST_TOTAL, CAP = 5.0, 2.0
BOOTSTRAPS = 500
BY_CHANCE, TENTATIVE = (
    0.2,
    0.667,
)  # of Krippendorff's alpha: below the first raters guess, below the second conclude little

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
PAPER: dict[str, dict[str, float]] = {
    "Kling (paper)": {
        "sensory": 0.638,
        "instruction": 0.367,
        "physics": 0.561,
        "cover": 0.668,
        "total": 2.17,
    },
    "CogVideoX-5B (paper)": {
        "sensory": 0.722,
        "instruction": 0.495,
        "physics": 0.667,
        "cover": 0.712,
        "total": 2.74,
    },
}


@dataclass(frozen=True)
class Rating:
    """One rater about one video. ``total`` is as given; ``capped`` is what counts."""

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
        """The total, at most 2 where the instruction is not followed."""
        return capped_total(self.total, self.aspects["instruction"])


@dataclass(frozen=True)
class Battle:
    """One rater about two videos of one prompt; ``winner`` is a, b or tie."""

    rater: str
    item: str
    a: str
    b: str
    winner: str


def capped_total(total: float, instruction: float) -> float:
    """At most 2 when the instruction is not followed (0)."""
    return min(total, CAP) if instruction == 0 else total


def model_scores(ratings: Sequence[Rating], model: str) -> dict[str, Score]:
    """Mean of each aspect, of the capped total and of the share that was capped; prompts resampled whole."""
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
    """Markdown like the paper's Table 4: one row per model with intervals, the paper's own rows beneath."""
    heads = [title for title, _ in ASPECTS.values()]
    lines = [f"| model | {' | '.join(heads)} | Total | ratings |", "|---" * (len(heads) + 3) + "|"]
    for model in sorted({rating.model for rating in ratings}):
        scores = model_scores(ratings, model)
        cells = [_cell(scores[name]) for name in (*ASPECTS, "total")]
        lines.append(f"| {_plain(model)} | {' | '.join(cells)} | {sum(r.model == model for r in ratings)} |")
    if beside_paper:
        for model, row in PAPER.items():
            cells = [f"{row[name]:.3g}" for name in (*ASPECTS, "total")]
            lines.append(f"| {model} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def agreement(ratings: Sequence[Rating]) -> dict[str, float | None]:
    """Krippendorff's alpha of each aspect (ordinal) and of the capped total (interval); None where nobody overlaps."""
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


Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def krippendorff_alpha(grid: np.ndarray, level: str = "nominal") -> float | None:
    """Agreement of raters ``[raters, units]``, NaN where one did not rate; 1 perfect, 0 as by chance.

    level: nominal, ordinal, interval or ratio. None when no unit has two ratings; 1 when all ratings are equal.
    Below .667 only tentative conclusions. Raises InputError.
    """
    if level not in ("nominal", "ordinal", "interval", "ratio"):
        raise InputError(f"level {level!r}: nominal, ordinal, interval or ratio")
    values = np.unique(grid[~np.isnan(grid)])
    counts = (
        np.stack([(grid == value).sum(0) for value in values], 1).astype(float)
        if len(values)
        else np.zeros((0, 0))
    )
    counts = counts[counts.sum(1) > 1] if counts.size else counts  # [units, values]
    if not counts.size or not len(counts):
        return None
    rated = counts.sum(1, keepdims=True)
    together = np.einsum("uc,uk->uck", counts, counts)  # [units, values, values]
    together[:, range(len(values)), range(len(values))] -= counts
    observed = (together / (rated[:, :, None] - 1)).sum(0)
    share = observed.sum(1)
    apart = _apart(values, share, level)
    expected = (np.outer(share, share) * apart).sum()
    if expected == 0:
        return 1.0
    return float(1 - (share.sum() - 1) * (observed * apart).sum() / expected)


def _apart(values: np.ndarray, share: np.ndarray, level: str) -> np.ndarray:
    """How far apart every two values are, squared."""
    a, b = values[:, None], values[None]
    if level == "nominal":
        return (a != b).astype(float)
    if level == "interval":
        return (a - b) ** 2
    if level == "ratio":
        return np.where(a + b == 0, 0.0, (a - b) / np.where(a + b == 0, 1.0, a + b)) ** 2
    upto = np.concatenate([[0.0], np.cumsum(share)])
    low, high = (
        np.minimum.outer(*[np.arange(len(values))] * 2),
        np.maximum.outer(*[np.arange(len(values))] * 2),
    )
    between = upto[high + 1] - upto[low] - (share[low] + share[high]) / 2
    return np.where(low == high, 0.0, between) ** 2


def bradley_terry(
    battles: Sequence[Battle], anchor: str | None = None, rounds: int = BOOTSTRAPS
) -> dict[str, Score]:
    """Ratings on the Elo scale, 1000 for the anchor (default: the first name), a tie half a win for each.

    Intervals from resampled prompts. A model that won or lost everything has no finite rating: half a win and half a
    loss against the others keep it finite.
    """
    models = sorted({name for battle in battles for name in (battle.a, battle.b)})
    if not models:
        return {}
    anchor = anchor or models[0]
    if anchor not in models:
        raise InputError(f"anchor {anchor!r}: fought no battle; one of {', '.join(models)}")
    items = sorted({battle.item for battle in battles})
    by_item = np.stack([_wins([b for b in battles if b.item == item], models) for item in items])
    ratings = _fit(by_item.sum(0), models.index(anchor))
    rng = np.random.default_rng(0)
    weights = rng.multinomial(
        len(items), np.full(len(items), 1 / len(items)), rounds if len(items) > 1 else 0
    )
    draws = [_fit(np.tensordot(weight, by_item, 1), models.index(anchor)) for weight in weights]
    ends = np.percentile(draws, [2.5, 97.5], axis=0) if draws else None
    return {
        name: Score(
            f"bradley_terry_{name}",
            float(ratings[place]),
            None if ends is None else float(ends[0][place]),
            None if ends is None else float(ends[1][place]),
            sum(name in (b.a, b.b) for b in battles),
            unit="Elo points",
            protocol=f"{len(battles)} battles, {anchor} at 1000",
        )
        for place, name in enumerate(models)
    }


def _wins(battles: Sequence[Battle], models: Sequence[str]) -> np.ndarray:
    """``[i, j]``: how often i beat j, ties as halves."""
    wins = np.zeros((len(models), len(models)))
    for battle in battles:
        a, b = models.index(battle.a), models.index(battle.b)
        won = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(battle.winner)
        if won is None:
            raise InputError(f"winner {battle.winner!r}: a, b or tie")
        wins[a, b] += won
        wins[b, a] += 1 - won
    return wins


def _fit(wins: np.ndarray, anchor: int, steps: int = 200) -> np.ndarray:
    """Maximum likelihood by Hunter's minorisation, as 400 log10 of the strengths, the anchor at 1000."""
    games = wins + wins.T
    met = (games > 0).astype(float)
    one_sided = (games > 0) & ((wins == 0) | (wins.T == 0))
    wins = wins + 0.5 * one_sided * met
    games = wins + wins.T
    strength = np.ones(len(wins))
    for _ in range(steps):
        new = wins.sum(1) / np.maximum((games / (strength[:, None] + strength[None])).sum(1), 1e-12)
        new = np.maximum(new, 1e-9) / max(float(np.exp(np.mean(np.log(np.maximum(new, 1e-9))))), 1e-12)
        if np.abs(new - strength).max() < 1e-10:
            break
        strength = new
    elo = 400 * np.log10(strength)
    return elo - elo[anchor] + 1000


def win_table(battles: Sequence[Battle]) -> str:
    """Markdown: who beat whom how often, beside the ratings."""
    models = sorted({name for battle in battles for name in (battle.a, battle.b)})
    wins = _wins(battles, models)
    lines = [f"| won against | {' | '.join(map(_plain, models))} |", "|---" * (len(models) + 1) + "|"]
    for place, model in enumerate(models):
        cells = ["" if place == other else f"{wins[place, other]:g}" for other in range(len(models))]
        lines.append(f"| {_plain(model)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(ratings: Sequence[Rating], least: int = LEAST_PROMPTS) -> list[str]:
    """For every two models, in words: which total is higher on the prompts both were rated on, or undecided, with how
    far the raters agree. No verdict below ``least`` prompts."""
    found = []
    for a, b in combinations(sorted({rating.model for rating in ratings}), 2):
        both = [rating for rating in ratings if rating.model in (a, b)]
        means = [_by_item(both, model) for model in (a, b)]
        items = sorted(means[0].keys() & means[1].keys())
        score = mean_score("difference", [means[0][item] - means[1][item] for item in items])
        if score.value is not None:
            said = f"{_plain(a)} - {_plain(b)}: total {score.value:+.2f}{_between(score)} on {len(items)} prompts"
            verdict = _verdict(score, _plain(a), _plain(b), len(items), least)
            found.append(f"{said}: {verdict}{_trust(agreement(both)['total'])}")
    return found


def preferences(battles: Sequence[Battle], least: int = LEAST_PROMPTS) -> list[str]:
    """As ``differences``, for pairs: how often each is preferred, ties as halves, prompts resampled whole."""
    found = []
    for pair in sorted({tuple(sorted((battle.a, battle.b))) for battle in battles}):
        a, b = pair
        won: dict[str, dict[str, float]] = {}  # item -> rater -> how far a won
        for battle in battles:
            if {battle.a, battle.b} == {a, b}:
                side = {"tie": 0.0, "a": 1.0, "b": -1.0}[battle.winner] * (1 if battle.a == a else -1)
                won.setdefault(battle.item, {})[battle.rater] = side
        score = mean_score("preference", [float(np.mean(list(by.values()))) for by in won.values()])
        share = f"{(1 + score.value) / 2:.0%} of the time" if score.value is not None else ""
        raters = sorted({rater for by in won.values() for rater in by})
        grid = np.array([[by.get(rater, np.nan) for by in won.values()] for rater in raters])
        verdict = _verdict(score, _plain(a), _plain(b), len(won), least)
        trust = _trust(krippendorff_alpha(grid, "ordinal"))
        found.append(f"{_plain(a)} preferred to {_plain(b)} {share} on {len(won)} prompts: {verdict}{trust}")
    return found


def _verdict(score: Score, a: str, b: str, prompts: int, least: int) -> str:
    if prompts < least:
        return f"no verdict, too few prompts ({prompts}; {least} are needed)"
    if score.low is not None and (score.low > 0 or score.high < 0):
        return f"{a if score.low > 0 else b} is better"
    return "undecided"


def _trust(alpha: float | None) -> str:
    """What stands beside every verdict when raters hardly agree, or when nobody knows."""
    if alpha is None:
        return "; no two raters rated the same, so how far they agree is not known"
    if alpha < BY_CHANCE:
        return f"; but raters agree hardly more than by chance (Krippendorff's alpha {alpha:.2f}): conclude nothing"
    return f"; raters agree little (Krippendorff's alpha {alpha:.2f})" if alpha < TENTATIVE else ""


def _between(score: Score) -> str:
    return "" if score.low is None else f" ({score.low:.2f} to {score.high:.2f})"


def _by_item(ratings: Sequence[Rating], model: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for rating in ratings:
        if rating.model == model:
            values.setdefault(rating.item, []).append(rating.capped)
    return {item: float(np.mean(each)) for item, each in values.items()}


def _cell(score: Score) -> str:
    if score.value is None:
        return ""
    return f"{score.value:.3g}{_between(score)}"


def _plain(text: Any) -> str:
    """Text that does not end a table's cell."""
    return " ".join(str(text).replace("|", "/").split())
