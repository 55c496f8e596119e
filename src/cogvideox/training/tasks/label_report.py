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
    """How well one label is predicted: ``tp``, ``fp``, ``tn``, ``fn`` are shares of the ``clips`` that were judged.
    Positive means that the clip has the defect."""

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
        """Share of the clips whose prediction is right."""
        return self.tp + self.tn

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson)."""
        return wilson(self.accuracy * self.clips, self.clips)

    @property
    def recall(self) -> float:
        """Share of the clips with the defect that are predicted to have it."""
        return self.tp / max(self.tp + self.fn, 1e-9)

    @property
    def precision(self) -> float:
        """Share of the clips predicted to have the defect that have it."""
        return self.tp / max(self.tp + self.fp, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """All figures by name, rounded to four digits, ready for JSON."""
        derived = {name: getattr(self, name) for name in ("accuracy", "interval", "recall", "precision")}
        return {name: _rounded(value) for name, value in (asdict(self) | derived).items()}


def score_label(label: str, probability: np.ndarray, truth: np.ndarray, threshold: float) -> LabelScore:
    """Score of one label from ``[n]`` probabilities and truths (1, 0, NaN: unknown), on equally many positives and
    negatives: all of the rarer class, the first as many of the other. Guessing gives 0.5."""
    known = np.flatnonzero(~np.isnan(truth))
    positive, negative = known[truth[known] == 1], known[truth[known] == 0]
    count = min(len(positive), len(negative))
    chosen = np.concatenate([positive[:count], negative[:count]])
    says, positive = probability[chosen] >= threshold, truth[chosen] == 1
    total = max(1, len(chosen))
    return LabelScore(
        label,
        len(chosen),
        tp=float((says & positive).sum()) / total,
        fp=float((says & ~positive).sum()) / total,
        tn=float((~says & ~positive).sum()) / total,
        fn=float((~says & positive).sum()) / total,
        threshold=threshold,
        auc=auc(probability[chosen], positive),
    )


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive has a higher value than a negative; ties count half."""
    high, low = values[positive], values[~positive]
    if not len(high) or not len(low):
        return 0.5
    order = np.sort(low)
    below, upto = np.searchsorted(order, high, "left"), np.searchsorted(order, high, "right")
    return float((below + upto).mean() / 2 / len(low))


def calibrate(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, 1/4 to 4, at which sigmoid(logits / temperature) fits ``truth`` best (Guo et al. 2017)."""
    known = ~np.isnan(truth)
    logits, truth = logits[known].astype(np.float64), truth[known]
    temperatures = np.exp(np.linspace(math.log(0.25), math.log(4), 81))
    return float(
        min(
            temperatures,
            key=lambda temperature: np.logaddexp(
                0, np.where(truth == 1, -logits, logits) / temperature
            ).mean(),
        )
    )


def best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """The probability at which recall and specificity together are largest; the middle of the best range."""
    known = ~np.isnan(truth)
    values, positive = probability[known], truth[known] == 1
    grid = np.linspace(0.02, 0.98, 97)
    sums = np.array([(values[positive] >= t).mean() + (values[~positive] < t).mean() for t in grid])
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    return float(grid[best[len(best) // 2]])


def report(held_out: Sequence[LabelScore], new: Sequence[LabelScore], name: str) -> str:
    """Markdown: a table for held-out videos, and one for effects that training never saw (``new``)."""
    text = [
        f"# {name}",
        "",
        "Positive means that the clip has the defect. Positives are made on purpose (training/tasks/faults),",
        "on videos that training has not seen; positives and negatives are equally many. Real lectures, screens and",
        "edits differ from made ones: label a few hundred of your own clips before you trust a threshold.",
    ]
    head = "| label | clips | TP | FP | TN | FN | accuracy | 95 % | recall | precision | AUC |"
    tables = ("Held-out videos", held_out), ("Held-out videos and effects that training never saw", new)
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
