"""Paths in folders that anybody may have filled: where links lead, what lies in what, which files are below.

No link is followed out of the folder that was given, no depth and no name ends a walk.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

from cogvideox.errors import CogVideoXError, InputError


def inside(path: str | Path, root: str | Path) -> bool:
    """Whether ``path``, with every link followed, lies in ``root``; false for what cannot be followed."""
    try:
        real, base = os.path.realpath(path), os.path.realpath(root)
    except (OSError, ValueError):  # a name no file can have
        return False
    return not os.path.islink(real) and (real == base or real.startswith(os.path.join(base, "")))


def root_of_links(folder: str | Path, *marks: str) -> Path:
    """The folder that links in ``folder`` must not lead out of.

    That is the repository of the hub's cache when it lies in one (``models--owner--name``, whose snapshots are links
    into its blobs); else the folder around that holds one of ``marks`` (a part lies in its model's folder); else
    itself. What the person typed may itself be a link.
    """
    folder = Path(folder)
    around = [folder, folder.parent]
    top = next((place for place in around if any((place / mark).is_file() for mark in marks)), folder)
    try:
        top = top.resolve()
    except (OSError, RuntimeError):  # a link to itself; found when it is read
        return top
    cached = [place.parent for place in top.parents if place.name == "snapshots"]
    return next((place for place in cached if place.name.startswith("models--")), top)


def check_link(path: str | Path, root: str | Path, error: type[CogVideoXError] = InputError) -> None:
    """Raise ``error`` when ``path``, its links followed, does not lie in ``root``."""
    if not inside(path, root):
        raise error(f"{path}: a link that leads out of {root}; copy the file itself there")


def shown(text: str) -> str:
    """A name as messages and JSON can hold it: bytes that are no UTF-8 (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether ``path`` is ``folder`` or would stand inside it.

    The system's own identity of each folder on the way up is compared, so links, ``..``, bind mounts and names that
    differ only in case on a file system that ignores case are seen through. Neither has to exist.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return True
    identity = _identity(root)
    return identity is not None and any(_identity(each) == identity for each in (real, *real.parents))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def files_below(
    root: str | Path,
    endings: Collection[str] | None,
    skipped: MutableMapping[str, str] | None = None,
    hidden: bool = False,
) -> list[Path]:
    """All but folders below ``root`` whose names end in one of ``endings`` (".mp4", lower case; None: any), sorted.

    Links and pipes are among them, for the caller to judge. Hidden files and folders are passed over unless ``hidden``.
    ``skipped`` gets a reason for each folder that is not entered: a link to a folder, one that cannot be listed.
    """
    return sorted(_files(Path(root), endings, {} if skipped is None else skipped, hidden))


def _files(
    root: Path, endings: Collection[str] | None, skipped: MutableMapping[str, str], hidden: bool
) -> Iterator[Path]:
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not hidden:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif endings is None or os.path.splitext(entry.name)[1].lower() in endings:
                        if not _is_folder(entry):
                            yield Path(entry.path)
                    elif entry.is_symlink() and _is_folder(entry):
                        name = shown(os.path.relpath(entry.path, root))
                        skipped[name] = "a link to a folder is not followed; move the folder itself there"
        except OSError as error:
            name = shown(os.path.relpath(folder, root))[:200]
            skipped[name] = f"the folder cannot be listed ({error.strerror}); check its name and rights"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
