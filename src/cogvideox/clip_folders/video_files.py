"""The video files of a folder, in one order, and what cannot be taken: one rule for curation, captions and evaluation.

Hidden names are passed over. Links to files of the same folder are followed; left out, by name and with a reason, are
links out of the folder, to nothing or to a folder, pipes and devices, names that are not UTF-8, and folders that cannot
be listed: one odd item does not end a run.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import InputError
from cogvideox.files import inside, shown
from cogvideox.files.paths import VIDEO_SUFFIXES, walk_files

NO_FILE = "no ordinary file"
"""The reason for pipes and devices."""


@dataclass(frozen=True)
class VideoFile:
    """A video file: its name below the folder, its size in bytes, the nanosecond it was last changed, and the size and
    nanosecond of the .txt beside it ("" without one)."""

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


def list_videos(root: Path) -> Iterator[VideoFile]:
    """The videos below ``root`` in the order of their names; a warning for each item that is left out.

    Raises InputError when the folder does not exist or cannot be listed.
    """
    for item in walk_videos(root):
        if isinstance(item, VideoFile):
            yield item
        else:
            warnings.warn(f"{root / item.path}: left out: {item.reason}; {item.detail}", stacklevel=2)


def walk_videos(root: Path) -> Iterator[VideoFile | LeftOut]:
    """As ``list_videos``, with what is left out in its place in the order instead of warnings."""
    root = root.absolute()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of videos")
    for name, problem in walk_files(root, VIDEO_SUFFIXES):
        if problem is None:
            yield _judged(root, name)
        elif name == ".":
            raise InputError(f"{root}: {problem}")
        else:
            yield LeftOut(shown(name), "folder left out", problem)


def _judged(root: Path, name: str) -> VideoFile | LeftOut:
    path = root / name
    if shown(name) != name:
        return LeftOut(shown(name), "its name is not UTF-8", "rename it")
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
        return LeftOut(name, NO_FILE, "a pipe, a device or a folder")
    return VideoFile(name, status.st_size, status.st_mtime_ns, _text_beside(path))


def _text_beside(path: Path) -> str:
    try:
        status = os.lstat(path.with_suffix(".txt"))
    except OSError:
        return ""
    return f"{status.st_size}/{status.st_mtime_ns}"
