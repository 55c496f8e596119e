"""Whether two folders lie in each other, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether ``path`` is ``folder`` or would stand inside it.

    The system's own identity of each folder on the way up is compared, so links, ``..``, bind mounts and names that
    differ only in case on a file system that ignores case are seen through. Neither has to exist.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return True
    identity = _identity(root)
    return identity is not None and any(_identity(place) == identity for place in (real, *real.parents))


def overlap(first: str | Path, second: str | Path) -> bool:
    """Whether one of two folders is the other, or would stand inside it; see ``lies_in``."""
    return lies_in(first, second) or lies_in(second, first)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
