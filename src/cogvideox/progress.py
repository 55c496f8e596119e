"""How work that takes long tells of itself: one bar on a terminal, a line now and then in a log.

``Reporter`` is what a function that works long takes: silent by default, ``Terminal`` for a person. Both say on stderr.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

YEAR = 365 * 86400

Report = Callable[[str, int, int], None]
"""``report(stage, items done, items in all)``; 0 done says that the stage begins."""


class Reporter:
    """Where a long piece of work reports to; this one is silent."""

    def progress(
        self, title: str, expected: Mapping[str, float] | None = None
    ) -> AbstractContextManager[Report]:
        """Yields ``report``. ``expected``: estimated seconds of stages by name."""
        return contextlib.nullcontext(lambda stage, done, total: None)

    def note(self, text: str) -> None:
        """Take one line about the work."""


class Terminal(Reporter):
    """Bars and lines on stderr."""

    def progress(
        self, title: str, expected: Mapping[str, float] | None = None
    ) -> AbstractContextManager[Report]:
        """See ``progress``."""
        return progress(title, expected)

    def note(self, text: str) -> None:
        """See ``say``."""
        say(text)


SILENT, TERMINAL = Reporter(), Terminal()


def say(text: str) -> None:
    """One line about the work, on stderr."""
    write_line(sys.stderr, printable(text))


def write_line(stream: Any, text: str) -> None:
    """A line on a terminal or pipe of any encoding: what it cannot show is escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def printable(text: str) -> str:
    """Control characters and lone surrogates escaped, so that a prompt cannot drive the terminal."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in safe)


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
    from there; then from the items that are done since the stage's first report, which is not item 0 in work that
    goes on. A stage first reported with one item done began at the report before it. ``title`` stands for the stage
    until something is reported.
    """

    def __init__(self, expected: Mapping[str, float] | None = None, title: str = "") -> None:
        self.expected = dict(expected or {})
        self.stage, self.first, self.done, self.total = title, 0, 0, 1
        self.heard = False
        self.began = self.reported = time.monotonic()

    def report(self, stage: str, done: int, total: int) -> bool:
        """Note where the work is; returns whether a new stage begins."""
        now, new = time.monotonic(), not self.heard or stage != self.stage
        if new:  # one item done: the work before this report was that item
            self.began, self.first = (self.reported, 0) if done == 1 else (now, done)
        self.heard, self.stage, self.done, self.total, self.reported = True, stage, done, total, now
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
        """The time left as text: '' when nothing is known or all is done, 'about' before anything was measured."""
        left = self.left
        if left is None:
            return ""
        if left < 0.05:
            return "longer than estimated" if self.done < self.total and not left else ""
        return f"about {duration(left)} left" + ("" if self.done else " (estimated)")

    def line(self) -> str:
        """One line for a log: stage, items, time, time left."""
        items = f"{self.done} of {self.total}, " if self.total > 1 else ""
        left = self.left_text()
        return f"{self.stage}: {items}{duration(self.elapsed)}" + (f", {left}" if left else "")


def on_one_line(text: str) -> str:
    """The printable text with its line breaks and runs of spaces as single spaces."""
    return " ".join(printable(text).split())


_interrupted = threading.Event()


@contextlib.contextmanager
def interrupts_are_kept() -> Iterator[None]:
    """Python loses an interrupt that comes inside a destructor or a callback of its importer; here it is raised again
    at the next report of progress."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def note(number: int, frame: Any) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupted.clear()


@contextlib.contextmanager
def progress(title: str, expected: Mapping[str, float] | None = None) -> Iterator[Report]:
    """Yields ``show(stage, done, total)``: a bar with the time left on a terminal; in a log, a line every 30 seconds,
    also while nothing is reported. ``expected``: estimated seconds of stages by name, for the time left until the
    first item of a stage is done. Inside another ``progress`` the stages are shown in the outer one.
    """
    if _showing:
        yield _showing[-1]
        return
    with _shown(title, StageClock(expected, title)) as show:

        def told(stage: str, done: int, total: int) -> None:
            if _interrupted.is_set():
                raise KeyboardInterrupt
            show(stage, done, total)

        _showing.append(told)
        try:
            yield told
        finally:
            _showing.pop()


_showing: list[Report] = []


@contextlib.contextmanager
def _shown(title: str, clock: StageClock) -> Iterator[Report]:
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(title, clock, console) if console.is_terminal else _lines(clock) as show:
        yield show


@contextlib.contextmanager
def _bar(title: str, clock: StageClock, console: Console) -> Iterator[Report]:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """The time left, drawn again with every refresh: it goes down within a long step too."""

        def render(self, task: Task) -> Text:
            return Text(clock.left_text())

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        Left(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(printable(title).replace("[", r"\["), total=1)

        def show(stage: str, done: int, total: int) -> None:
            if clock.report(stage, done, total):
                bars.reset(task, total=max(total, 1), description=printable(stage).replace("[", r"\["))
            bars.update(task, completed=done, total=max(total, 1))

        yield show


@contextlib.contextmanager
def _lines(clock: StageClock, every: float = 30.0) -> Iterator[Report]:
    """``show`` that writes to a log: a line every so many seconds, nothing about what takes less."""
    lock, ended = threading.Lock(), threading.Event()
    said = time.monotonic()

    def tell() -> None:
        nonlocal said
        with lock:
            if time.monotonic() - said >= every:
                said = time.monotonic()
                say(clock.line())

    def watch() -> None:
        while not ended.wait(every / 10):
            tell()

    def show(stage: str, done: int, total: int) -> None:
        with lock:
            clock.report(stage, done, total)
        tell()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield show
    finally:
        ended.set()
        watcher.join()
