"""Files and folders that appear whole or not at all, and what is left of writers that were killed.

Everything is written in a hidden workplace beside its target, ``.NAME.new-<12 digits>/``, flushed, and moved to its
name in one step; where a folder stands there already the two change places in one step, so that a whole one always
stands under the name. ``.maker`` in the workplace says who writes and is locked as long as that process lives:
whoever writes there next removes the workplaces of the dead, and nothing else, and says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogvideox.errors import OutputError
from cogvideox.files import maker
from cogvideox.files.exchange import exchange

NEW, OLD, GONE, SWAPPING = "new", "old", "gone", "swapping"
WORKPLACE = re.compile(r"\..{0,40}\.new-[0-9a-f]{12}", re.DOTALL)
TERMINATED = 143
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
    with _told(target, "", OSError):
        if target.parent.is_dir():
            sweep(target.parent)
        _check_free(target, overwrite, replaceable)
        with _workplace(target) as place:
            work = place / NEW
            work.mkdir()
            yield work
            _flush_all(work)
            _check_free(target, overwrite, replaceable)  # an hour may have passed
            _publish(place, target)


@contextmanager
def atomic_file(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write to; it is renamed to ``target`` when the block ends without an error.

    Raises OutputError when ``target`` is a folder, exists without ``overwrite``, or cannot be written.
    """
    target = Path(target)
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise OutputError(f"{target}: exists already; choose another name, or pass overwrite")
    with (
        _told(target, "; free some space and try again", (OSError, RuntimeError)),
        temporary_file(target) as work,
    ):
        yield work


@contextmanager
def temporary_file(target: Path, mode: int | None = None) -> Iterator[Path]:
    """The one writer of files: yield a path of the same ending; on a clean exit it is flushed and takes the place of
    ``target``, on any other it is removed. Folders are made. Errors of the system pass through.

    mode: the file's rights, set before it gets its name; default: what the umask leaves.
    """
    if target.parent.resolve() not in _swept and target.parent.is_dir():
        sweep(target.parent)
    with _workplace(target) as place:
        work = place / target.name
        yield work
        if mode is not None:
            work.chmod(mode)
        _flush(work)
        os.replace(work, target)
        _flush(target.parent)


def write_text(file: Path, text: str, mode: int | None = None) -> None:
    """Write a text file in UTF-8 that is there whole, or as it was before. Raises OutputError."""
    with _told(file, "; free some space", OSError), temporary_file(file, mode) as work:
        work.write_text(text, encoding="utf-8")


def discard(path: Path) -> None:
    """Delete a file or folder of ours at which others may be at work; nothing happens where nothing stands.

    It loses its name first: nobody begins anything more in it, and half-deleted it is not taken for damaged.
    """
    if not os.path.lexists(path):
        return
    try:
        with _workplace(path) as place:
            path.rename(place / GONE)
    except OSError:  # a full disk, which may have no room for a workplace
        _delete(path)


def sweep(folder: Path, below: bool = False) -> list[Path]:
    """Remove what killed writers left in ``folder`` (and in the folders below it), warn of it, return where it stood.

    Only workplaces that hold the mark of this program, and whose maker is dead for certain, are touched; one that was
    killed while it exchanged two folders is finished instead. Those of which nobody can tell are named.
    """
    _swept.add(folder.resolve())
    found: list[Path] = []
    for here, folders, _ in os.walk(folder):
        for name in [name for name in folders if WORKPLACE.fullmatch(name)]:
            folders.remove(name)
            if _swept_one(Path(here, name)):
                found.append(Path(here, name))
        if not below:
            break
    return found


def _swept_one(place: Path) -> bool:
    if place.is_symlink():
        return False
    with suppress(
        OSError
    ):  # empty: its maker died before its first word, or is about to write it and begins again
        place.rmdir()
        return False
    mark = maker.read(place)
    if mark is None or mark.is_alive:
        return False
    with mark:
        if mark.is_alive is None:
            warnings.warn(
                f"{place}: left by {mark.who} while it wrote {mark.name}; if that has ended, remove it",
                stacklevel=4,
            )
            return False
        target, size = place.parent / mark.name, _size(place)
        if (place / SWAPPING).exists() and (place / NEW).exists() and not os.path.lexists(target):
            os.rename(place / NEW, target)
            _flush(place.parent)
            warnings.warn(
                f"{target}: its writer was killed at the last step, which is done now", stacklevel=4
            )
        else:
            what = (
                f"a half-written {mark.name} of a process that was killed ({mark.who}), {size / 1e6:,.1f} MB"
            )
            warnings.warn(f"{place.parent}: {what}, is removed", stacklevel=4)
        _clear(place)
    return True


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` that is marked as ours, and gone at the end, also after SIGTERM."""
    with _terminating():
        _make(target.parent)
        mark = None
        while mark is None:
            place = target.parent / f".{target.name[:40]}.new-{uuid.uuid4().hex[:12]}"
            mark = maker.write(place, target.name)
        with mark:
            try:
                yield place
            finally:
                _clear(place)


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
def _told(target: Path, cure: str, kinds: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """Errors of the system as ours; torch reports a full disk as a RuntimeError."""
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise OutputError(f"{target}: cannot be written: {reason}{cure}") from error


def _check_free(target: Path, overwrite: bool, replaceable: Callable[[Path], str] | None) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; a folder is written here")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{target}: holds files already; choose another folder, or pass overwrite")
    why = replaceable(target) if replaceable is not None else "nobody knows what it is"
    if why:
        raise OutputError(f"{target}: is not replaced, since {why}; choose another folder")


def _publish(place: Path, target: Path) -> None:
    """Put the new folder in the place of ``target``; what stood there stays in the workplace, to be removed with it.

    Where the system cannot exchange two folders there is a moment without either: ``swapping`` tells the next start.
    """
    if not target.exists():
        os.rename(place / NEW, target)
    elif not exchange(place / NEW, target):
        (place / SWAPPING).touch()
        _flush(place)
        os.rename(target, place / OLD)
        os.rename(place / NEW, target)
    _flush(target.parent)


def _clear(place: Path) -> None:
    """Remove a workplace: what it holds, then the mark. A file that others were making in it at that moment may
    outlive one look through it, so there are two; what remains keeps the mark, for the next start."""
    with suppress(OSError):
        (place / NEW).rename(place / GONE)
    for _ in range(2):
        with suppress(OSError):
            for path in list(place.iterdir()):
                if path.name != maker.MARK:
                    _delete(path)
    with suppress(OSError):
        if [path.name for path in place.iterdir()] == [maker.MARK]:
            (place / maker.MARK).unlink()
        place.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _size(place: Path) -> int:
    """Bytes of everything in a workplace, as far as it can be read."""
    total = 0
    for here, _, names in os.walk(place):
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
