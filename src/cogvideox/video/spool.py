"""Frames of a long video on disk while it is made: an array that reads a temporary file, which nobody else can open.

The file has no name (or loses it when the array is gone), so nothing is left behind, however the program ends. It lies
where the system keeps temporary files (``TMPDIR``).
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cogvideox.errors import OutputError

DROPPED = 1 << 24
"""Bytes of frames that are read before the memory they were read into is given back."""


def frames_on_disk(count: int, height: int, width: int) -> np.ndarray:
    """Room for so many frames, uint8 [count, height, width, 3], in a temporary file. Raises OutputError."""
    size = count * height * width * 3
    try:
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            _take_room(file.fileno(), size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise OutputError(
            f"{size / 1e6:.3g} MB for the frames of the video: {error.strerror or error} in "
            f"{Path(tempfile.gettempdir())}; free some, or set TMPDIR to another folder"
        ) from None
    return np.ndarray((count, height, width, 3), np.uint8, mapped)


def _take_room(file: int, size: int) -> None:
    """Take the room on the disk now: a full disk under a mapped file would kill the process at a write. OSError."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
        ):  # a file system that cannot tell
            raise


def forget_pages(frames: np.ndarray) -> None:
    """Give back the memory that holds frames of a temporary file; they are read again when they are needed."""
    base: object = frames
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def passing(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The frames one after the other; of a temporary file only a few are in memory at a time."""
    since = 0
    for frame in frames:
        yield frame
        since += frame.nbytes
        if since >= DROPPED:
            forget_pages(frames)
            since = 0
