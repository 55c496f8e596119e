"""One run for one folder: a lock that the system releases however its holder dies."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogvideox.errors import ConfigError, OutputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``<folder>/.lock`` while the block runs. Raises ConfigError, naming the holder, when another process does;
    OutputError when the folder cannot be made.

    A folder that holds nothing else afterwards is removed again.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another out=") from None
    if fcntl is None:
        warnings.warn(f"{folder}: no locks on this system; do not start two runs on one folder", stacklevel=3)
        yield
        return
    file = folder / ".lock"
    number = _taken(file)
    try:
        with suppress(OSError):  # a full disk: whoever looks in is told of another process without its name
            os.ftruncate(number, 0)
            os.write(number, f"{socket.gethostname()} process {os.getpid()}".encode())
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who opened this very file looks again
        os.close(number)
        with suppress(OSError):
            folder.rmdir()


def _taken(file: Path) -> int:
    while True:
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(number).st_ino == os.stat(file).st_ino:
                return number
        except FileNotFoundError:
            pass  # its holder has just ended and removed it: take a new one
        except BlockingIOError:
            holder = os.read(number, 200).decode("utf-8", "replace") or "another process"
            os.close(number)
            raise ConfigError(
                f"{file.parent}: a run is under way there ({holder}); wait for it, or choose another out="
            ) from None
        os.close(number)
