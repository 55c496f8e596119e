"""Files and folders that appear whole or not at all, and what is left of writers that were killed.

Everything is written in a hidden staging folder beside its target, ``.NAME.new-<12 digits>/``, flushed, and moved to
its name in one step. Where a folder stands there already the two are exchanged in one step, so that a whole one always
stands under the name. A PID file (``.maker``) in the staging folder says which process writes and is locked as long as
it lives: whoever writes there next removes the staging folders of dead processes, and nothing else, and says so.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogvideox.errors import OutputError
from cogvideox.files import pidfile
from cogvideox.files.pidfile import PidFile

NEW, OLD, GONE, SWAPPING = "new", "old", "gone", "swapping"
STAGING = re.compile(r"\..{0,40}\.new-[0-9a-f]{12}", re.DOTALL)
TERMINATED = 143
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux: renameat2(2)
RENAME_SWAP = 2  # macOS: renamex_np(2)
NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_swept: set[Path] = set()


@contextmanager
def atomic_folder(
    target: str | Path, overwrite: bool = False, replaceable: Callable[[Path], str] | None = None
) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``target`` when the block ends without an error.

    replaceable: why an existing folder must not be replaced, "" when it may be; without it none may.
    Raises OutputError when ``target`` is a file, or holds anything and ``overwrite`` is false or ``replaceable``
    refuses, or cannot be written.
    """
    target = Path(os.path.realpath(target)) if Path(target).is_symlink() else Path(target)
    with _as_output_error(target, OSError):
        if target.parent.is_dir():
            sweep(target.parent)
        _check_free(target, overwrite, replaceable)
        with _staging_folder(target) as staging:
            work = staging / NEW
            work.mkdir()
            yield work
            _flush_all(work)
            _check_free(target, overwrite, replaceable)  # an hour may have passed
            _publish(staging, target)


@contextmanager
def atomic_file(target: str | Path, overwrite: bool = False, mode: int | None = None) -> Iterator[Path]:
    """Yield a path of the same ending to write to; when the block ends without an error the file is flushed and takes
    the place of ``target``, else it is removed. Folders above it are made.

    mode: the file's rights, set before it gets its name; default: what the umask leaves. Raises OutputError when
    ``target`` is a folder, exists without ``overwrite``, or cannot be written (torch reports a full disk as a
    RuntimeError).
    """
    target = Path(target)
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise OutputError(f"{target}: exists already; choose another name, or pass overwrite")
    with _as_output_error(target, OSError, RuntimeError):
        if target.parent.resolve() not in _swept and target.parent.is_dir():
            sweep(target.parent)
        with _staging_folder(target) as staging:
            temporary = staging / target.name
            yield temporary
            if mode is not None:
                temporary.chmod(mode)
            _flush(temporary)
            os.replace(temporary, target)
            _flush(target.parent)


def write_text(file: Path, text: str, mode: int | None = None) -> None:
    """Write a text file in UTF-8 that is there whole, or as it was before. Raises OutputError."""
    with atomic_file(file, overwrite=True, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Any, overwrite: bool = False) -> Path:
    """Write plain values as readable JSON, whole or not at all; returns the path. Raises OutputError."""
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
    with atomic_file(path, overwrite) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="replace")
    return Path(path)


def discard(path: Path) -> None:
    """Delete a file or folder of ours at which others may be at work; nothing happens where nothing stands.

    It loses its name first, so that no other process starts using it or takes it, half-deleted, for damaged.
    """
    if not os.path.lexists(path):
        return
    try:
        with _staging_folder(path) as staging:
            path.rename(staging / GONE)
    except OSError:  # a full disk, which may have no room for a staging folder
        _delete(path)


def sweep(folder: Path, below: bool = False) -> list[Path]:
    """Remove what killed writers left in ``folder`` (and in the folders below it), warn of it, return where it stood.

    Only staging folders with a PID file of this program, whose process is dead for certain, are touched; one that was
    killed while it exchanged two folders is finished instead. Those of which this cannot be known are named.
    """
    _swept.add(folder.resolve())
    swept: list[Path] = []
    for here, folders, _ in os.walk(folder):
        for name in [name for name in folders if STAGING.fullmatch(name)]:
            folders.remove(name)
            if _swept_one(Path(here, name)):
                swept.append(Path(here, name))
        if not below:
            break
    return swept


def _swept_one(staging: Path) -> bool:
    if staging.is_symlink():
        return False
    with suppress(
        OSError
    ):  # empty: its maker died before its first word, or is about to write it and begins again
        staging.rmdir()
        return False
    owner = pidfile.read(staging)
    if owner is None or owner.is_alive:
        return False
    with owner:
        if owner.is_alive is None:
            left = f"left by {owner.who} while it wrote {owner.name}"
            warnings.warn(f"{staging}: {left}; if that has ended, remove it", stacklevel=4)
            return False
        target, size = staging.parent / owner.name, _size(staging)
        if (staging / SWAPPING).exists() and (staging / NEW).exists() and not os.path.lexists(target):
            os.rename(staging / NEW, target)
            _flush(staging.parent)
            warnings.warn(
                f"{target}: its writer was killed at the last step, which is done now", stacklevel=4
            )
        else:
            what = f"a half-written {owner.name} of a process that was killed ({owner.who}), {size / 1e6:,.1f} MB"
            warnings.warn(f"{staging.parent}: {what}, is removed", stacklevel=4)
        _clear(staging)
    return True


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` that is marked as ours, and gone at the end, also after SIGTERM."""
    with _terminating():
        _make(target.parent)
        owner: PidFile | None = None
        while owner is None:
            staging = target.parent / f".{target.name[:40]}.new-{uuid.uuid4().hex[:12]}"
            owner = pidfile.write(staging, target.name)
        with owner:
            try:
                yield staging
            finally:
                _clear(staging)


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM, where nobody else listens to it, ends the block as an error does: what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a child that was forked meanwhile
            os.kill(os.getpid(), number)
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _as_output_error(target: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of the system as OutputError that names ``target``."""
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise OutputError(
            f"{target}: cannot be written ({reason}); free some space, or choose another folder"
        ) from error


def _check_free(target: Path, overwrite: bool, replaceable: Callable[[Path], str] | None) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; a folder is written here")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{target}: holds files already; choose another folder, or pass overwrite")
    why = replaceable(target) if replaceable is not None else "it is not known what it is"
    if why:
        raise OutputError(f"{target}: is not replaced, since {why}; choose another folder")


def _publish(staging: Path, target: Path) -> None:
    """Put the new folder in the place of ``target``; what stood there stays in the staging folder and goes with it.

    Where the system cannot exchange two folders there is a moment without either: ``swapping`` tells the next start.
    """
    if not target.exists():
        os.rename(staging / NEW, target)
    elif not exchange(staging / NEW, target):
        (staging / SWAPPING).touch()
        _flush(staging)
        os.rename(target, staging / OLD)
        os.rename(staging / NEW, target)
    _flush(target.parent)


def exchange(a: Path, b: Path) -> bool:
    """Exchange what stands under two names of one file system; False where the system or the file system cannot.

    Raises OSError for any other failure.
    """
    names = os.fsencode(a), os.fsencode(b)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, ctypes.c_uint(RENAME_SWAP))
        else:
            here = ctypes.c_int(AT_FDCWD)
            failed = libc.renameat2(here, names[0], here, names[1], ctypes.c_uint(RENAME_EXCHANGE))
    except (AttributeError, OSError, TypeError):  # no such call, or no C library to ask (Windows)
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(b))


def _clear(staging: Path) -> None:
    """Remove a staging folder: what it holds, then the owner. A file that others were making in it at that moment may
    outlive one look through it, so there are two; what remains keeps the mark, for the next start."""
    with suppress(OSError):
        (staging / NEW).rename(staging / GONE)
    for _ in range(2):
        with suppress(OSError):
            for path in list(staging.iterdir()):
                if path.name != pidfile.NAME:
                    _delete(path)
    with suppress(OSError):
        if [path.name for path in staging.iterdir()] == [pidfile.NAME]:
            (staging / pidfile.NAME).unlink()
        staging.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _size(staging: Path) -> int:
    """Bytes of everything in a staging folder, as far as it can be read."""
    total = 0
    for here, _, names in os.walk(staging):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total


def _make(folder: Path) -> None:
    """Make a folder and those above it, and their names durable."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush(each.parent)


def _flush_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    """Everything written to a file is on the disk; for a folder, the names in it."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # which has no such call for folders
        return
    number = os.open(path, os.O_RDONLY if folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError:
        if not folder:  # some file systems of other machines know no flush of a folder
            raise
    finally:
        os.close(number)
