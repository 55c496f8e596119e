"""Thresholds: which clips each stage of training may see. Fixed values, or shares of what there is; all on the record.

The paper changes its thresholds of motion and aesthetics while it trains (section 3), and fine-tunes on the best 20 %
at the end. So rules stand per stage; a clip is kept when any stage wants it, and its record says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from cogvideox.clip import Decision
from cogvideox.config import Config
from cogvideox.curation.table import ClipTable
from cogvideox.errors import ConfigError


class ThresholdRule(Config):
    """Limits of one score. A clip without the score passes: what was not measured cannot condemn."""

    score: str
    least: float | None = Field(None, description="fixed lower limit")
    most: float | None = Field(None, description="fixed upper limit")
    drop_lowest: float = Field(0.0, ge=0, lt=1, description="share of clips that is too low")
    drop_highest: float = Field(0.0, ge=0, lt=1, description="share of clips that is too high")

    @model_validator(mode="after")
    def _limits_fit(self) -> ThresholdRule:
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ConfigError(f"rule {self.score}: least {self.least:g} is above most {self.most:g}")
        if self.drop_lowest + self.drop_highest >= 1:
            raise ConfigError(
                f"rule {self.score}: drop_lowest {self.drop_lowest:g} and drop_highest {self.drop_highest:g} "
                "leave nothing"
            )
        return self

    def fitted(self, values: np.ndarray) -> ThresholdRule:
        """The rule with fixed limits only, shares replaced by quantiles of ``values`` (NaN left out)."""
        known = np.sort(values[~np.isnan(values)])
        low, high = self.least, self.most
        if len(known) and self.drop_lowest:
            low = max(_quantile(known, self.drop_lowest), -np.inf if low is None else low)
        if len(known) and self.drop_highest:
            high = min(_quantile(known, 1 - self.drop_highest), np.inf if high is None else high)
        return ThresholdRule.model_construct(
            score=self.score, least=low, most=high, drop_lowest=0.0, drop_highest=0.0
        )

    def broken(self, value: float | None) -> str:
        """'' when ``value`` is within the fixed limits, else both values."""
        if value is None or np.isnan(value):
            return ""
        if self.least is not None and value < self.least:
            return f"{self.score} {value:.4g} < {self.least:.4g}"
        if self.most is not None and value > self.most:
            return f"{self.score} {value:.4g} > {self.most:.4g}"
        return ""


class ThresholdStage(Config):
    """What one stage of training wants."""

    name: str
    rules: tuple[ThresholdRule, ...]

    def fitted(self, table: ClipTable, among: np.ndarray) -> ThresholdStage:
        """The stage with fixed limits only; shares are shares of the rows ``among``."""
        return ThresholdStage(
            name=self.name, rules=tuple(rule.fitted(table.scores(rule.score)[among]) for rule in self.rules)
        )

    def decide(self, scores: Mapping[str, float | None]) -> Decision:
        """What a fitted stage says about a clip with these scores."""
        reasons = tuple(filter(None, (rule.broken(scores.get(rule.score)) for rule in self.rules)))
        return Decision(stage=self.name, kept=not reasons, reasons=reasons)


class Thresholds(Config):
    """Drop clips that no stage wants."""

    kind: Literal["thresholds"] = "thresholds"
    stages: tuple[ThresholdStage, ...] = Field(
        min_length=1, description="in the order of training, the most tolerant first"
    )

    def rules(self) -> tuple[ThresholdRule, ...]:
        """The rules of all stages."""
        return tuple(rule for stage in self.stages for rule in stage.rules)

    def fitted(self, table: ClipTable) -> Thresholds:
        """With fixed limits only: shares become quantiles of the clips that are alive now."""
        among = np.flatnonzero(table.alive)
        return Thresholds(stages=tuple(stage.fitted(table, among) for stage in self.stages))

    def choose(self, table: ClipTable) -> None:
        """Drops with the first broken rule of the first stage as the reason; the rules must be fitted."""
        columns = {rule.score: table.scores(rule.score) for rule in self.rules()}
        for row in np.flatnonzero(table.alive):
            scores = {name: column[row] for name, column in columns.items()}
            decisions = [stage.decide(scores) for stage in self.stages]
            if not any(decision.kept for decision in decisions):
                first = decisions[0].reasons
                table.drop(int(row), self.kind, _short(first[0]), "; ".join(first))


def quantiles(table: ClipTable) -> dict[str, list[float]]:
    """21 quantiles of every score over all clips that have it: a reference to choose thresholds by."""
    by_score = {}
    for name in table.names:
        values = table.scores(name)
        known = np.sort(values[~np.isnan(values)])
        by_score[name] = [float(f"{_quantile(known, share / 20):.6g}") for share in range(21)]
    return by_score


def _quantile(ordered: np.ndarray, share: float) -> float:
    """The value at ``share`` of sorted values, one of them: no interpolation, so that every machine agrees."""
    return float(ordered[min(len(ordered) - 1, int(np.floor(share * len(ordered))))])


def _short(broken: str) -> str:
    """'motion 0.1 < 0.2' -> 'motion low': a reason that is the same for many clips."""
    name, _, sign, _ = broken.split(" ")
    return f"{name} {'low' if sign == '<' else 'high'}"
