"""What a person or a script sees: results on stdout, everything else on stderr, one line per error.

Exit codes: 0 done, 1 error, 2 asked for something that cannot be, 3 some items failed, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.cli.clock import StageClock
from cogvideox.errors import CogVideoXError, ConfigError, InputError

if TYPE_CHECKING:
    from rich.console import Console

OK, ERROR, USAGE, PARTIAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141


def result(text: str) -> None:
    """One line of result, for people and pipes."""
    _write(sys.stdout, printable(text))


def result_json(values: Any) -> None:
    """One result as one line of JSON."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isprintable() and _fits(c) else json.dumps(c)[1:-1] for c in text)
    _write(sys.stdout, text)


def say(text: str) -> None:
    """One line about the work, on stderr."""
    _write(sys.stderr, printable(text))


def _write(stream: Any, text: str) -> None:
    """A line on a terminal or pipe of any encoding: what it cannot show is escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def _fits(character: str) -> bool:
    """Whether standard output can show a character."""
    if character.isascii():
        return True
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Control characters and lone surrogates escaped, so that a prompt cannot drive the terminal."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in safe)


def one_line(text: str) -> str:
    """All on one line, as errors are."""
    return " ".join(printable(text).split())


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """A command: our errors become one line and an exit code; a traceback only with ``--debug``."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        debug = bool(kwargs.get("debug"))
        try:
            with warnings_as_lines(), interrupts_are_kept():
                function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; nothing half-written was left behind")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader has gone; let the exit flush in peace
            raise typer.Exit(BROKEN_PIPE) from None
        except typer.Exit:
            raise
        except Exception as error:  # every way to fail ends here, as one line
            if debug:
                raise
            say(f"error: {describe(error)}")
            raise typer.Exit(code_of(error)) from None

    return run


def code_of(error: Exception) -> int:
    """2 when another request is needed, 1 when the machine or a file is at fault."""
    return USAGE if isinstance(error, InputError | ConfigError) else ERROR


def describe(error: Exception) -> str:
    """One line: what, where, what to do."""
    if isinstance(error, CogVideoXError):
        return one_line(str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: lower --frames, --height or --width, or use --dtype bfloat16"
    if isinstance(error, OSError):
        return one_line(
            f"{error.filename or 'system'}: {error.strerror or error}; check the path and the disk"
        )
    kind, text = type(error).__name__, one_line(str(error))[:300]
    return f"unexpected {kind}: {text}; run again with --debug for the traceback, and please report it"


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Our warnings as single lines on stderr; those of other libraries stay quiet unless Python is told."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
        said: set[str] = set()

        def show(message: Warning | str, *rest: object, **more: object) -> None:
            line = one_line(str(message))
            if line not in said:
                said.add(line)
                say(f"warning: {line}")

        warnings.showwarning = show
        yield


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


Show = Callable[[str, int, int], None]
"""(stage, items done, items in all): what the work reports. 0 done says that the stage begins."""


@contextlib.contextmanager
def progress(title: str, expected: Mapping[str, float] | None = None) -> Iterator[Show]:
    """Yields ``show(stage, done, total)``: a bar with the time left on a terminal; in a log, a line every 30 seconds,
    also while nothing is reported. ``expected``: estimated seconds of stages by name, for the time left until the
    first item of a stage is done. Inside another ``progress`` the stages are shown in the outer one.
    """
    if _showing:
        yield _showing[-1]
        return
    with _shown(title, StageClock(expected)) as show:

        def told(stage: str, done: int, total: int) -> None:
            if _interrupted.is_set():
                raise KeyboardInterrupt
            show(stage, done, total)

        _showing.append(told)
        try:
            yield told
        finally:
            _showing.pop()


_showing: list[Show] = []


@contextlib.contextmanager
def _shown(title: str, clock: StageClock) -> Iterator[Show]:
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(title, clock, console) if console.is_terminal else _lines(title, clock) as show:
        yield show


@contextlib.contextmanager
def _bar(title: str, clock: StageClock, console: Console) -> Iterator[Show]:
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
def _lines(title: str, clock: StageClock, every: float = 30.0) -> Iterator[Show]:
    """``show`` that writes to a log: a line every so many seconds, nothing about what takes less."""
    lock, ended = threading.Lock(), threading.Event()
    said = time.monotonic()
    clock.stage = title

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
