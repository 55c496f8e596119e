"""How far raters agree (Krippendorff's alpha), and texts of the result: verdict on two models, interval, note."""

from __future__ import annotations

from typing import Any

import numpy as np

from cogvideox.errors import InputError
from cogvideox.evaluation.score import Score

BY_CHANCE, TENTATIVE = 0.2, 0.667
"""Bounds of Krippendorff's alpha: below the first raters agree hardly more than by chance, below the second their
agreement allows only tentative conclusions."""


def krippendorff_alpha(grid: np.ndarray, level: str = "nominal") -> float | None:
    """Agreement of raters, from ratings ``[raters, units]`` (NaN: did not rate); 1 perfect, 0 as by chance.

    ``level`` of measurement: nominal, ordinal, interval or ratio; InputError for another. None when no unit has two
    ratings; 1 when all ratings are equal.
    """
    if level not in ("nominal", "ordinal", "interval", "ratio"):
        raise InputError(f"level {level!r}: nominal, ordinal, interval or ratio")
    values = np.unique(grid[~np.isnan(grid)])
    if not len(values):
        return None
    counts = np.stack([(grid == value).sum(0) for value in values], 1).astype(float)  # [units, values]
    counts = counts[counts.sum(1) > 1]
    if not len(counts):
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
    """Squared distance of every two values at a level of measurement, ``[values, values]``."""
    a, b = values[:, None], values[None]
    if level == "nominal":
        return (a != b).astype(float)
    if level == "interval":
        return (a - b) ** 2
    if level == "ratio":
        return np.where(a + b == 0, 0.0, (a - b) / np.where(a + b == 0, 1.0, a + b)) ** 2
    upto = np.concatenate([[0.0], np.cumsum(share)])
    ranks = np.arange(len(values))
    low, high = np.minimum.outer(ranks, ranks), np.maximum.outer(ranks, ranks)
    between = upto[high + 1] - upto[low] - (share[low] + share[high]) / 2
    return np.where(low == high, 0.0, between) ** 2


def verdict_text(score: Score, a: str, b: str, prompts: int, least: int) -> str:
    """'a is better', 'b is better', 'undecided', or that there are fewer prompts than ``least``."""
    if prompts < least:
        return f"no verdict, too few prompts ({prompts}; {least} are needed)"
    if score.low is not None and score.high is not None and (score.low > 0 or score.high < 0):
        return f"{a if score.low > 0 else b} is better"
    return "undecided"


def agreement_note(alpha: float | None) -> str:
    """What to add to a verdict where raters agree little, or where it is not known (``alpha`` None); else ""."""
    if alpha is None:
        return "; no two raters rated the same, so how far they agree is not known"
    if alpha < BY_CHANCE:
        return f"; but raters agree hardly more than by chance (Krippendorff's alpha {alpha:.2f}): conclude nothing"
    return f"; raters agree little (Krippendorff's alpha {alpha:.2f})" if alpha < TENTATIVE else ""


def interval_text(score: Score) -> str:
    """The interval of a score as ' (low to high)' with two decimals; '' where it has none."""
    return "" if score.low is None else f" ({score.low:.2f} to {score.high:.2f})"


def cell_text(text: Any) -> str:
    """A text for the cell of a Markdown table: on one line, without '|'."""
    return " ".join(str(text).replace("|", "/").split())
