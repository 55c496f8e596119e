"""When a run is asked to stop: SIGTERM and Ctrl-C end it after the step that is under way, with its state saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PREEMPTED = 143
"""Exit code after SIGTERM: the state was saved, and the same command resumes."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that the first SIGTERM or Ctrl-C is added to instead of ending the process; a second ends it at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # where somebody ignores a signal (SIGINT in the background of a shell) it stays ignored
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:  # not print: a handler may run within a write
            os.write(2, b"stopping after this step, with its state saved; Ctrl-C again stops at once\n")
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
