"""Read small texts that others may have written: captions, records, tables, histories, settings.

A file beside a clip may be a named pipe, a device, a link to ``/etc/passwd`` or endless. Opening it the plain way
hangs or leaks; every small text of this package is read through ``read_small_text`` instead.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cogvideox.errors import CogVideoXError, InputError
from cogvideox.files.paths import inside, shown

MOST_BYTES = 1 << 20  # of a caption, a record, a settings file
MOST_TABLE_BYTES = 256 << 20  # of a table with a line for each clip


@contextmanager
def open_regular(
    path: str | Path,
    *,
    root: str | Path | None = None,
    most: int = MOST_BYTES,
    error: type[CogVideoXError] = InputError,
) -> Iterator[BinaryIO]:
    """A regular file of at most ``most`` bytes, open for reading bytes; never waits for a pipe or a device.

    root: the folder that links must not lead out of; None follows links anywhere, for paths a user typed.
    Raises ``error`` with the path, the reason and what to do, also for OSError while reading inside the block.
    """
    file = Path(path)
    name = shown(str(file))
    try:
        if root is not None and not inside(file, root):
            raise error(f"{name}: leads out of {shown(str(root))}; copy the file itself there")
        # O_NONBLOCK: opening a pipe that nobody writes to returns at once; it means nothing for regular files.
        number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(number, "rb") as stream:
            status = os.fstat(number)
            if stat.S_ISDIR(status.st_mode):
                raise error(f"{name}: a folder; give a file")
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{name}: a pipe or device, not a regular file; remove it or write a plain file")
            if status.st_size > most:
                raise error(f"{name}: {_too_large(most)}")
            yield stream
    except FileNotFoundError:
        raise error(f"{name}: no such file; check the path") from None
    except OSError as problem:
        reason = "a folder" if problem.errno == errno.EISDIR else problem.strerror or str(problem)
        raise error(f"{name!r}: cannot be read ({reason}); check the path and its rights") from None
    except ValueError as problem:
        if isinstance(problem, CogVideoXError | UnicodeError):
            raise
        raise error(f"{name!r}: cannot be read ({problem}); check the path") from None


def read_small_bytes(
    path: str | Path,
    *,
    root: str | Path | None = None,
    most: int = MOST_BYTES,
    error: type[CogVideoXError] = InputError,
) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; see ``open_regular``."""
    with open_regular(path, root=root, most=most, error=error) as stream:
        content = stream.read(most + 1)
    if len(content) > most:  # it grew meanwhile, or says no size
        raise error(f"{shown(str(path))}: {_too_large(most)}")
    return content


def _too_large(most: int) -> str:
    return f"more than {most:,} bytes, the limit for this kind of file; shorten or split it"


def read_small_text(
    path: str | Path,
    *,
    root: str | Path | None = None,
    most: int = MOST_BYTES,
    error: type[CogVideoXError] = InputError,
) -> str:
    """A small text in UTF-8 (with or without a byte order mark) or in UTF-16 with one; see ``read_small_bytes``.

    Raises ``error`` for another encoding, naming the byte where UTF-8 ends, and for a NUL character.
    """
    content = read_small_bytes(path, root=root, most=most, error=error)
    return decode_text(content, shown(str(path)), error=error)


def decode_text(content: bytes, where: str, *, error: type[CogVideoXError] = InputError) -> str:
    """Text from bytes in UTF-8 (with or without a byte order mark) or UTF-16 with one; ``where`` names it in messages.

    Raises ``error`` for another encoding, naming line and byte, and for a NUL character.
    """
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        named = "UTF-16" if utf16 else "UTF-8"
        number = content[: problem.start].count(b"\n") + 1
        at = f"{'' if utf16 else f'line {number}, '}byte {problem.start}"
        raise error(f"{where}: not {named} ({at}: {problem.reason}); save it as UTF-8") from None
    if "\x00" in text:
        raise error(f"{where}: holds a NUL character, so it is no text; save it as UTF-8 text")
    return text.replace("\r\n", "\n")
