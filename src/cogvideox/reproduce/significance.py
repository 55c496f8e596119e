"""Differences between arms over seeds, and whether their intervals support the paper's claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from cogvideox.reproduce.experiments import Claim, Experiment, Measure

Values = Mapping[str, Sequence[Mapping[str, float]]]
"""Arm -> what each seed measured, seeds in order."""
Reading = Literal["better", "worse", "undecided"]
Status = Literal["reproduced in direction", "not reproduced", "needs weights or data"]
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class SeedDifference:
    """By how much the first arm is better than ``arm``, seed by seed; ``low`` and ``high`` hold 95 %."""

    arm: str
    measure: Measure
    value: float
    low: float
    high: float

    @property
    def reading(self) -> Reading:
        """Whether the first arm is better or worse; undecided where the interval holds zero."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"


def difference(values: Values, first: str, arm: str, measure: Measure) -> SeedDifference:
    """Paired over seeds: positive where ``first`` is better. One seed decides nothing."""
    sign = 1 if measure.better == "lower" else -1
    each = [
        sign * (theirs[measure.name] - ours[measure.name])
        for ours, theirs in zip(values[first], values[arm], strict=True)
    ]
    half = math.inf
    if len(each) > 1:
        half = T[min(len(each) - 2, len(T) - 1)] * stdev(each) / math.sqrt(len(each))
    return SeedDifference(arm, measure, mean(each), mean(each) - half, mean(each) + half)


def differences(experiment: Experiment, values: Values) -> list[SeedDifference]:
    """Every other arm against the first, by every measure."""
    first, *others = experiment.arms
    return [difference(values, first.name, arm.name, m) for m in experiment.measures for arm in others]


def status_of(experiment: Experiment, gaps: Sequence[SeedDifference]) -> tuple[Status, str]:
    """(status, why): reproduced when everything that the paper claims is decided its way."""
    labels = {arm.name: arm.label for arm in experiment.arms}
    missed = []
    for claim in experiment.claims:
        for each in gaps:
            if _is_about(claim, each) and each.reading != ("better" if claim.first else "worse"):
                how = "undecided" if each.reading == "undecided" else "goes the other way"
                missed.append(f"{each.measure.label}, {labels[each.arm]}: {how}")
    if missed:
        return "not reproduced", "; ".join(missed)
    return "reproduced in direction", "every claimed difference has its 95 % interval on the paper's side"


def _is_about(claim: Claim, gap: SeedDifference) -> bool:
    return claim.arm == gap.arm and claim.measure in (None, gap.measure.name)
