"""Human evaluation by pairs: which of two videos is better; Bradley-Terry ratings and preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import LEAST_PROMPTS, Score, mean_score
from cogvideox.rating.agreement import agreement_note, cell_text, krippendorff_alpha, verdict_text

BOOTSTRAPS = 500


@dataclass(frozen=True)
class Battle:
    """One rater about two videos of one prompt; ``winner`` is a, b or tie."""

    rater: str
    item: str
    a: str
    b: str
    winner: str


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
    rounds = rounds if len(items) > 1 else 0
    weights = rng.multinomial(len(items), np.full(len(items), 1 / len(items)), rounds)
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
    lines = [f"| won against | {' | '.join(map(cell_text, models))} |", "|---" * (len(models) + 1) + "|"]
    for place, model in enumerate(models):
        cells = ["" if place == other else f"{wins[place, other]:g}" for other in range(len(models))]
        lines.append(f"| {cell_text(model)} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
        verdict = verdict_text(score, cell_text(a), cell_text(b), len(won), least)
        trust = agreement_note(krippendorff_alpha(grid, "ordinal"))
        pair_text = f"{cell_text(a)} preferred to {cell_text(b)}"
        found.append(f"{pair_text} {share} on {len(won)} prompts: {verdict}{trust}")
    return found
