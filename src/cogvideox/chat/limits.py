"""How fast and how long to ask: waiting between attempts, what may be spent, and when to leave a server alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from cogvideox.chat.question import ChatFailure


def delay(key: str, attempt: int, first: float, longest: float, asked: float | None) -> float:
    """Seconds before attempt ``attempt + 1``: doubled each time, with half of it by chance, so that many askers do not
    come back at once; never less than the server asked for. The chance is a function of (key, attempt)."""
    most = min(longest, first * 2 ** (attempt - 1))
    chance = random.Random(f"{key}/{attempt}").uniform(0.5, 1.0)
    return max(most * chance, min(asked or 0.0, longest))


class Budget:
    """What may be spent: requests and tokens; None is no limit. Raises ChatFailure("budget") when it is used up.

    Tokens are known only afterwards, so the questions that are being answered when the last is spent go over it.
    """

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        self.requests, self.tokens = requests, tokens
        self.used_requests = self.used_tokens = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count one more request. Raises ChatFailure when the budget is used up."""
        with self._lock:
            if self.requests is not None and self.used_requests >= self.requests:
                raise ChatFailure(
                    "budget", f"{self.requests} requests are spent; raise requests, or run again"
                )
            if self.tokens is not None and self.used_tokens >= self.tokens:
                raise ChatFailure("budget", f"{self.tokens} tokens are spent; raise tokens, or run again")
            self.used_requests += 1

    def spend(self, tokens: int) -> None:
        """Count the tokens that an answer cost."""
        with self._lock:
            self.used_tokens += tokens


class Breaker:
    """Circuit breaker: after ``failures`` in a row no requests are made for ``rest`` seconds, then one is tried.

    After ``openings`` such pauses without a success between them it gives up: the remaining questions end at once.
    """

    def __init__(
        self, failures: int, rest: float, openings: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures, self.rest, self.openings, self.now = failures, rest, openings, now
        self._failed_in_a_row = self._opened = 0
        self._last = ""
        self._until: float | None = None  # None: closed
        self._trying = False
        self._lock = threading.Lock()

    def wait(self) -> float:
        """0 when an attempt may be made now, else seconds after which to ask again. Raises ChatFailure("down")."""
        with self._lock:
            if self._until is None:
                return 0.0
            if self._opened >= self.openings:
                raise ChatFailure(
                    "down",
                    f"the server failed {self.failures} times in a row, {self._opened} times over, at last with "
                    f"{self._last}; run again",
                )
            left = self._until - self.now()
            if left <= 0 and not self._trying:
                self._trying = True
                return 0.0
            return max(left, min(0.05, self.rest))

    def worked(self) -> None:
        """The server answered, whatever it said."""
        with self._lock:
            self._failed_in_a_row = self._opened = 0
            self._until, self._trying = None, False

    def failed(self, why: str = "no answer") -> bool:
        """The server did not answer; returns whether a pause begins now."""
        with self._lock:
            self._failed_in_a_row, self._last = self._failed_in_a_row + 1, why
            probed = self._trying
            if probed or (self._until is None and self._failed_in_a_row >= self.failures):
                self._until, self._trying = self.now() + self.rest, False
                self._opened += 1
                return True
            return False
