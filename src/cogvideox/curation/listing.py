"""What there is to curate: the video files of a folder, in one order, links never followed out of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import InputError
from cogvideox.files.media import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Input:
    """One file: its name below the folder, its size and the nanosecond it was last changed."""

    path: str
    size: int
    changed: int


def listing(root: Path) -> Iterator[Input]:
    """The videos below ``root`` by name, sorted, hidden ones left out; links out of the folder, links to nothing and
    pipes are left out with a warning.

    Raises InputError when the folder does not exist. Memory holds one folder at a time.
    """
    root = root.absolute()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of videos")
    yield from _below(root, root.resolve(), "")


def _below(folder: Path, real: Path, prefix: str) -> Iterator[Input]:
    try:
        names = sorted(os.listdir(folder))  # of 100,000 films: entries would be three times as heavy
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        leaves = path.is_symlink() and not path.resolve().is_relative_to(real)
        if path.is_dir():
            if not path.is_symlink():
                yield from _below(path, real, f"{prefix}{name}/")
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            if leaves or not path.is_file():
                what = "a link out of the folder" if leaves else "a link to nothing, or no ordinary file"
                warnings.warn(f"{path}: left out: {what}", stacklevel=2)
                continue
            status = path.stat()
            yield Input(prefix + name, status.st_size, status.st_mtime_ns)
