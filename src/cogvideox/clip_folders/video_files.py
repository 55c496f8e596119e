"""What there is to curate: the video files of a folder, in one order, links never followed out of it."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import InputError
from cogvideox.files import inside
from cogvideox.files.media import VIDEO_SUFFIXES

MOST_DEPTH = 512  # folders inside each other; deeper ones are named and left out


@dataclass(frozen=True)
class Input:
    """One file: its name below the folder, its size, the nanosecond it was last changed, and the size and nanosecond
    of the text beside it ("" without one)."""

    path: str
    size: int
    changed: int
    beside: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A video or folder that cannot be taken: its name, in characters that every file can hold, and why."""

    path: str
    reason: str
    detail: str


def listing(root: Path) -> Iterator[Input]:
    """The videos below ``root`` by name, sorted, hidden ones left out; what cannot be taken is left out with a warning.

    Raises InputError when the folder does not exist. Memory holds one folder at a time.
    """
    for one in everything(root):
        if isinstance(one, Input):
            yield one
        else:
            warnings.warn(f"{root / one.path}: left out: {one.reason}; {one.detail}", stacklevel=2)


def everything(root: Path) -> Iterator[Input | LeftOut]:
    """As ``listing``, with what is left out in its place in the order.

    Left out are links out of the folder, to nothing or to themselves, pipes and devices, names that are not UTF-8, and
    folders that cannot be read or lie too deep: one odd item does not end a run.
    """
    root = root.absolute()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of videos")
    waiting: list[Iterator[str]] = [iter(_sorted(root, ""))]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            continue
        path = root / name
        try:
            status = os.lstat(path)
        except OSError as error:
            yield LeftOut(_printable(name), "cannot be read", str(error.strerror))
            continue
        if stat.S_ISDIR(status.st_mode):
            found = _sorted(path, name + "/") if len(waiting) < MOST_DEPTH else "more than 512 folders deep"
            if isinstance(found, str):
                yield LeftOut(_printable(name), "folder left out", found)
            else:
                waiting.append(iter(found))
        elif path.suffix.lower() in VIDEO_SUFFIXES and not (
            path.is_symlink() and inside(path, root) and path.is_dir()
        ):
            yield _one(root, name, path)


def _sorted(folder: Path, prefix: str) -> list[str] | str:
    """Names below the root, or why the folder cannot be listed; for the root itself that is an error."""
    try:
        names = sorted(os.listdir(folder))  # of 100,000 films: entries would be three times as heavy
    except OSError as error:
        if not prefix:
            raise InputError(
                f"{folder}: cannot be listed ({error.strerror}); check its permissions"
            ) from None
        return f"cannot be listed ({error.strerror}); check its permissions"
    return [prefix + name for name in names if not name.startswith(".")]


def _one(root: Path, name: str, path: Path) -> Input | LeftOut:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return LeftOut(_printable(name), "its name is not UTF-8", "rename it")
    if path.is_symlink() and not inside(path, root):
        try:
            path.stat()
        except OSError as error:
            return LeftOut(name, "a link to nothing", str(error.strerror))
        return LeftOut(name, "a link out of the folder", "copy the file itself there")
    try:
        status = path.stat()
    except OSError as error:
        return LeftOut(name, "a link to nothing", str(error.strerror))
    if not stat.S_ISREG(status.st_mode):
        return LeftOut(name, "no ordinary file", "a pipe, a device or a folder")
    return Input(name, status.st_size, status.st_mtime_ns, _beside(path))


def _beside(path: Path) -> str:
    try:
        status = os.lstat(path.with_suffix(".txt"))
    except OSError:
        return ""
    return f"{status.st_size}/{status.st_mtime_ns}"


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
