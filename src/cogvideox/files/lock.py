"""One lock for everything that one process at a time may do; the system releases it however its holder dies."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogvideox.errors import CogVideoXError, ConfigError, OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
HOLDER = re.compile(r"\S{1,255} process \d{1,20}")
FAR = 1 << 30  # Windows locks bytes: one beyond the text, so that others can still read who holds the lock
UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}


@contextmanager
def folder_lock(
    folder: Path,
    busy: str = "a run is under way there",
    cure: str = "choose another out=",
    error: type[CogVideoXError] = ConfigError,
) -> Iterator[None]:
    """Hold ``<folder>/.lock`` while the block runs.

    Raises ``error`` when another process holds it, naming that process, ``busy`` and ``cure``; OutputError when the
    folder cannot be made or its ``.lock`` is not one of ours. A folder that holds nothing else afterwards is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"{folder}: cannot be made ({problem.strerror}); {cure}") from None
    file = folder / NAME
    try:
        number = hold(file)
    except BlockingIOError as problem:
        holder = problem.strerror or "another process"
        raise error(f"{folder}: {busy} ({holder}); wait for it, or {cure}") from None
    except OSError as problem:
        raise OutputError(f"{file}: cannot be locked ({problem.strerror or problem}); {cure}") from None
    try:
        with suppress(OSError):  # a full disk: whoever looks in is told of another process without its name
            os.ftruncate(number, 0)
            os.write(number, f"{socket.gethostname()} process {os.getpid()}".encode())
        yield
    finally:
        with suppress(OSError):  # while it is held: who opened this very file looks again; not so on Windows
            file.unlink(missing_ok=True)
        os.close(number)
        with suppress(OSError):
            folder.rmdir()


def hold(file: Path) -> int:
    """Open and lock ``file``, which is made when it is not there; closing the returned descriptor releases it.

    Raises BlockingIOError, with what stands in the file as reason, when another process holds it, and OSError for
    what is no lock file of ours: a link, a pipe, a file with other text in it.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        number = os.open(file, flags, 0o644)
        try:
            said = _text_of(number)
            locked = try_lock(number)
            if locked is None:
                no_locks = "no locks on this file system; use it once at a time"
                warnings.warn(f"{file.parent}: {no_locks}", stacklevel=4)
            elif not locked:
                raise BlockingIOError(errno.EWOULDBLOCK, said or "another process")
            elif os.fstat(number).st_ino != os.stat(file).st_ino:
                raise FileNotFoundError  # its holder has just ended and removed it: take a new one
            return number
        except FileNotFoundError:
            os.close(number)
        except OSError:
            os.close(number)
            raise


def try_lock(number: int) -> bool | None:
    """Lock an open file without waiting: True when it is ours now, False when another holds it, None where the file
    system knows no locks."""
    try:
        if sys.platform == "win32":
            os.lseek(number, FAR, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
            os.lseek(number, 0, os.SEEK_SET)
        else:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in UNKNOWN else False
    return True


def _text_of(number: int) -> str:
    """What a lock file says: who holds it, or nothing yet. Raises OSError for any other file."""
    if not stat.S_ISREG(os.fstat(number).st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    text = os.read(number, 400).decode("utf-8", "replace")
    os.lseek(number, 0, os.SEEK_SET)
    if text and not HOLDER.fullmatch(text):
        raise OSError(errno.EEXIST, "a file that is no lock of this program; move it away")
    return text
