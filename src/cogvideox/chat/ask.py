"""Many questions at once. Each ends in exactly one outcome: a value, or a failure with its reason. Nothing is lost.

A fixed number of questions is open at a time and outcomes come in the order of the questions, so memory stays
flat and the result does not depend on who answered first.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cogvideox.chat.cache import Cache, Transcript
from cogvideox.chat.limits import Breaker, Budget, delay
from cogvideox.chat.parse import Reader, as_text
from cogvideox.chat.question import Answer, ChatFailure, LanguageModel, Question
from cogvideox.config import Config


class ChatConfig(Config):
    """How questions are asked: how many at a time, how often and how long to try, what may be spent."""

    concurrency: int = Field(8, gt=0, le=256, description="questions open at a time")
    tries: int = Field(5, gt=0, le=20, description="attempts at one question")
    first_wait: float = Field(1.0, ge=0, description="seconds before the second attempt; doubled each time")
    longest_wait: float = Field(
        60.0,
        ge=0,
        description="most seconds before an attempt; if the server asks for more, a later run asks again",
    )
    requests: int | None = Field(None, gt=0, description="attempts in all; null: no limit")
    tokens: int | None = Field(None, gt=0, description="tokens in all, asked and answered; null: no limit")
    failures: int = Field(
        10, gt=0, description="failures in a row after which the server gets no requests for a while"
    )
    rest: float = Field(30.0, ge=0, description="seconds without requests after `failures` in a row")
    openings: int = Field(
        4, gt=0, description="pauses in a row after which all remaining questions wait for the next run"
    )


@dataclass(frozen=True, slots=True)
class AskOutcome:
    """How one question ended: either ``failure`` is set, or ``value`` and ``answer``."""

    index: int
    key: str
    value: Any
    answer: Answer | None
    failure: ChatFailure | None
    attempts: int  # 0: from the cache, or never asked

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.failure is None


class Chat:
    """A language model with retries, cache, and a budget and a circuit breaker that last as long as this object."""

    def __init__(
        self,
        model: LanguageModel,
        config: ChatConfig | None = None,
        cache: str | Path | None = None,
        transcript: str | Path | None = None,
    ) -> None:
        self.model = model
        self.config = c = config or ChatConfig()
        self.cache = Cache(cache) if cache is not None else None
        self.transcript = Transcript(transcript) if transcript is not None else None
        self.budget = Budget(c.requests, c.tokens)
        self.breaker = Breaker(c.failures, c.rest, c.openings)
        self._halted: ChatFailure | None = None

    def ask(self, question: Question, read: Reader = as_text) -> Any:
        """The value of one question. Raises ChatFailure."""
        outcome = self._ask(0, question, read, threading.Event())
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.value

    def ask_all(self, questions: Iterable[Question], read: Reader = as_text) -> Iterator[AskOutcome]:
        """Outcomes in the order of the questions, each exactly once.

        ``read`` makes a value of an answer's text and raises ValueError (ask again) or ChatFailure. When the caller
        stops early, questions that wait are stopped too. OutputError when cache or transcript cannot be written.
        """
        stop = threading.Event()
        waiting: deque[Future[AskOutcome]] = deque()
        with ThreadPoolExecutor(self.config.concurrency, "chat") as pool:
            try:
                for index, question in enumerate(questions):
                    waiting.append(pool.submit(self._ask, index, question, read, stop))
                    if len(waiting) >= 4 * self.config.concurrency:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                stop.set()
                for future in waiting:
                    future.cancel()

    def _ask(self, index: int, question: Question, read: Reader, stop: threading.Event) -> AskOutcome:
        key = question.key(self.model.name)
        kept = self._kept(index, key, read)
        if kept is not None:
            return kept
        outcome = self._try(index, key, question, read, stop)
        answer, failure, attempts = outcome.answer, outcome.failure, outcome.attempts
        if failure is not None and failure.traits.halts:
            self._halted = failure
        if answer is not None and self.cache is not None:
            self.cache.put(key, answer)
        if self.transcript is not None and attempts:
            self.transcript.write(self.model.name, key, question, answer, failure, attempts)
        return outcome

    def _kept(self, index: int, key: str, read: Reader) -> AskOutcome | None:
        """The cached answer of an earlier run, if ``read`` still accepts it; None without one."""
        answer = self.cache.get(key) if self.cache is not None else None
        if answer is None:
            return None
        try:
            return AskOutcome(index, key, read(answer.text), answer, None, 0)
        except (ValueError, ChatFailure):
            return None

    def _try(
        self, index: int, key: str, question: Question, read: Reader, stop: threading.Event
    ) -> AskOutcome:
        c, attempts = self.config, 0
        while True:
            try:
                self._gate(stop)
                attempts += 1
                answer = self.model.answer(question)
                self.budget.spend(answer.tokens)
                self.breaker.worked()
                return AskOutcome(index, key, _read(read, answer), answer, None, attempts)
            except ChatFailure as failure:
                self._note(failure)
                too_long = failure.wait is not None and failure.wait > c.longest_wait
                if not failure.traits.again or attempts >= c.tries or too_long:
                    return AskOutcome(index, key, None, None, failure, attempts)
                wait = delay(key, attempts, c.first_wait, c.longest_wait, failure.wait)
            if stop.wait(wait):
                return AskOutcome(index, key, None, None, _stopped(), attempts)

    def _gate(self, stop: threading.Event) -> None:
        """Wait until an attempt may be made. Raises ChatFailure when no more may be made in this run."""
        if self._halted is not None:
            raise ChatFailure(self._halted.kind, self._halted.detail)
        while (wait := self.breaker.wait()) > 0:
            if stop.wait(wait):
                raise _stopped()
        self.budget.take()

    def _note(self, failure: ChatFailure) -> None:
        if failure.traits.sick:
            if self.breaker.failed(str(failure)):
                rest = (
                    f"no requests to it for {self.config.rest:g} s; press Ctrl-C if the server should be up"
                )
                warnings.warn(f"{self.model.name} does not answer ({failure}): {rest}", stacklevel=2)
        elif failure.kind in ("busy", "refused", "rejected", "key", "quota", "moved"):
            self.breaker.worked()  # it answers, even if not with what was hoped for


def _stopped() -> ChatFailure:
    return ChatFailure("stopped", "the run was stopped; run again")


def _read(read: Reader, answer: Answer) -> Any:
    try:
        return read(answer.text)
    except ChatFailure:
        raise
    except ValueError as error:
        raise ChatFailure("unusable", " ".join(str(error).split())[:300]) from None
