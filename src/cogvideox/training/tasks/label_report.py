"""How good a yes-or-no judge is: calibration, the threshold, and a table like the paper's Table 14 with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cogvideox.world.score import wilson


@dataclass(frozen=True)
class LabelScore:
    """One label. Shares of all clips judged; positive means that the clip has the defect."""

    label: str
    clips: int
    tp: float
    fp: float
    tn: float
    fn: float
    threshold: float
    auc: float

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return self.tp + self.tn

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the accuracy (Wilson)."""
        return wilson(self.accuracy * self.clips, self.clips)

    @property
    def recall(self) -> float:
        """Share of the defects that is found."""
        return self.tp / max(self.tp + self.fn, 1e-9)

    @property
    def precision(self) -> float:
        """Share of what is found that is a defect."""
        return self.tp / max(self.tp + self.fp, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """All figures by name, rounded to four digits, ready for JSON."""
        derived = {name: getattr(self, name) for name in ("accuracy", "interval", "recall", "precision")}
        return {name: _rounded(value) for name, value in (asdict(self) | derived).items()}


def judged(label: str, probability: np.ndarray, truth: np.ndarray, threshold: float) -> LabelScore:
    """The row of one label, from ``[n]`` probabilities and truths (NaN: unknown), positives and negatives in balance.
    The rarer kind is counted whole and the other in its order as often, so that guessing gives 0.5."""
    known = np.flatnonzero(~np.isnan(truth))
    positive, negative = known[truth[known] == 1], known[truth[known] == 0]
    count = min(len(positive), len(negative))
    chosen = np.concatenate([positive[:count], negative[:count]])
    says, is_ = probability[chosen] >= threshold, truth[chosen] == 1
    total = max(1, len(chosen))
    return LabelScore(
        label,
        len(chosen),
        tp=float((says & is_).sum()) / total,
        fp=float((says & ~is_).sum()) / total,
        tn=float((~says & ~is_).sum()) / total,
        fn=float((~says & is_).sum()) / total,
        threshold=threshold,
        auc=auc(probability[chosen], is_),
    )


def auc(values: np.ndarray, is_: np.ndarray) -> float:
    """The chance that a positive has a higher value than a negative; ties count half."""
    high, low = values[is_], values[~is_]
    if not len(high) or not len(low):
        return 0.5
    order = np.sort(low)
    below, upto = np.searchsorted(order, high, "left"), np.searchsorted(order, high, "right")
    return float((below + upto).mean() / 2 / len(low))


def calibrate(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature that makes probabilities most likely (Guo et al. 2017), between 1/4 and 4."""
    known = ~np.isnan(truth)
    logits, truth = logits[known].astype(np.float64), truth[known]
    heats = np.exp(np.linspace(math.log(0.25), math.log(4), 81))
    return float(
        min(heats, key=lambda heat: np.logaddexp(0, np.where(truth == 1, -logits, logits) / heat).mean())
    )


def best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """The probability at which recall and specificity together are largest; the middle of the best range."""
    known = ~np.isnan(truth)
    values, is_ = probability[known], truth[known] == 1
    grid = np.linspace(0.02, 0.98, 97)
    sums = np.array([(values[is_] >= t).mean() + (values[~is_] < t).mean() for t in grid])
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    return float(grid[best[len(best) // 2]])


def report(held_out: Sequence[LabelScore], new: Sequence[LabelScore], name: str) -> str:
    """Markdown: a table for held-out films, and one for effects that training never saw (``new``)."""
    text = [
        f"# {name}",
        "",
        "Positive means that the clip has the defect. Positives are made on purpose (training/tasks/faults),",
        "on films that training has not seen; positives and negatives are equally many. Real lectures, screens and",
        "edits differ from made ones: label a few hundred of your own clips before you trust a threshold.",
    ]
    head = "| label | clips | TP | FP | TN | FN | accuracy | 95 % | recall | precision | AUC |"
    tables = ("Held-out films", held_out), ("Held-out films and effects that training never saw", new)
    for title, table in tables:
        text += ["", f"## {title}", "", head, "|---|---|---|---|---|---|---|---|---|---|---|"]
        for row in table:
            low, high = row.interval
            cells = [f"{v:.2f}" for v in (row.tp, row.fp, row.tn, row.fn)]
            tail = [f"{v:.2f}" for v in (row.recall, row.precision, row.auc)]
            text.append(
                f"| {row.label} | {row.clips} | {' | '.join(cells)} | {row.accuracy:.3f} | {low:.2f} to {high:.2f} "
                f"| {' | '.join(tail)} |"
            )
        text.append(f"| mean | | | | | | {np.mean([row.accuracy for row in table]):.3f} | | | | |")
    return "\n".join(text)


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(one, 4) for one in value]
    return round(value, 4) if isinstance(value, float) else value
