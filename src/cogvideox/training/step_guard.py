"""Steps that must not move the weights: a loss or gradient that is not finite, and one far above those before it.

They are skipped by a branch, before the optimiser: its moments and the average never see them. Multiplying by zero
would not do, for 0 × NaN is NaN.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

from pydantic import Field

from cogvideox.config import Config
from cogvideox.errors import NumericsError


class GuardConfig(Config):
    """When a step is skipped, and when the run gives up."""

    abort_after: int = Field(3, gt=0, description="steps in a row that are not finite before the run stops")
    sigmas: float | None = Field(
        None,
        gt=0,
        description="skip a loss or gradient norm so many deviations above the window's mean; null: never",
    )
    window: int = Field(128, ge=8, description="accepted steps the mean and deviation are taken over")
    accept_after: int = Field(3, gt=0, description="spikes in a row after which they count as the new normal")


class Guard:
    """Judges one step after the other; ``state_dict`` and ``load_state_dict`` resume it."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.seen: deque[tuple[float, float]] = deque(maxlen=config.window)
        self.not_finite = self.spikes = self.skipped = 0

    def allows(self, step: int, loss: float, norm: float) -> bool:
        """Whether the optimiser may use this step. Raises NumericsError after too many that are not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.not_finite += 1
            self.skipped += 1
            if self.not_finite >= self.config.abort_after:
                raise NumericsError(
                    f"step {step}: the loss is {loss}, the gradient norm {norm}, {self.not_finite} steps in a row; "
                    "lower the learning rate or set precision=fp32, and see `cogvideox data doctor`"
                )
            return False
        self.not_finite = 0
        if self._is_spike(loss, norm) and self.spikes < self.config.accept_after:
            self.spikes += 1
            self.skipped += 1
            return False
        if self.spikes >= self.config.accept_after:
            self.seen.clear()  # not an accident but another level
        self.spikes = 0
        self.seen.append((loss, norm))
        return True

    def _is_spike(self, loss: float, norm: float) -> bool:
        if self.config.sigmas is None or len(self.seen) < self.config.window // 2:
            return False
        pairs = zip(zip(*self.seen, strict=True), (loss, norm), strict=True)
        return any(
            value > statistics.fmean(past) + self.config.sigmas * max(statistics.pstdev(past), 1e-12)
            for past, value in pairs
        )

    def state_dict(self) -> dict[str, Any]:
        """Its counts and window, as plain values."""
        counts = {"not_finite": self.not_finite, "spikes": self.spikes, "skipped": self.skipped}
        return counts | {"seen": [list(pair) for pair in self.seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken."""
        self.not_finite, self.spikes, self.skipped = (state[k] for k in ("not_finite", "spikes", "skipped"))
        self.seen.extend((loss, norm) for loss, norm in state["seen"])
