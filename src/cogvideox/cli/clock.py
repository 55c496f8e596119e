"""How long a stage has taken and will take, as people read it; prints nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping

YEAR = 365 * 86400


def duration(seconds: float) -> str:
    """``0.4 s``, ``90 s``, ``12 min``, ``3 h 20 min``, ``5 days``, ``2,000 years``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if seconds < 2 * 86400:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest and hours < 10 else f"{round(seconds / 3600)} h"
    if seconds < 2 * YEAR:
        return f"{round(seconds / 86400)} days"
    return f"{round(seconds / YEAR):,} years"


class StageClock:
    """The time of the stage that runs now: what it took, and what is left.

    ``expected``: estimated seconds of stages by name. Until the first of a stage's items is done the time left comes
    from there; then from the items that are done.
    """

    def __init__(self, expected: Mapping[str, float] | None = None) -> None:
        self.expected = dict(expected or {})
        self.stage, self.first, self.done, self.total = "", 0, 0, 1
        self.began = self.reported = time.monotonic()

    def report(self, stage: str, done: int, total: int) -> bool:
        """Note where the work is; returns whether a new stage begins."""
        now, new = time.monotonic(), stage != self.stage
        if new:
            self.began, self.first = now, done
        self.stage, self.done, self.total, self.reported = stage, done, total, now
        return new

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends, as far as anything is known about it."""
        since = time.monotonic() - self.reported
        if self.done > self.first:
            each = (self.reported - self.began) / (self.done - self.first)
            return max(each * max(self.total - self.done, 0) - since, 0.0)
        if not self.done and self.stage in self.expected:
            return max(self.expected[self.stage] - self.elapsed, 0.0)
        return None

    def left_text(self) -> str:
        """The time left as text: '' when nothing is known, 'about' before anything was measured."""
        left = self.left
        if left is None:
            return ""
        if not self.done and left == 0:
            return "longer than estimated"
        return f"about {duration(left)} left" + ("" if self.done else " (estimated)")

    def line(self) -> str:
        """One line for a log: stage, items, time, time left."""
        items = f"{self.done} of {self.total}, " if self.total > 1 else ""
        left = self.left_text()
        return f"{self.stage}: {items}{duration(self.elapsed)}" + (f", {left}" if left else "")
