"""Paths in folders that anybody may have filled: where links lead, what lies in what, which files are below, by ending.

No link is followed out of the folder that was given, no depth and no name ends a walk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

from cogvideox.errors import CogVideoXError, InputError

VIDEO_SUFFIXES = frozenset([
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv",
    ".gif", ".ogv", ".3gp",
])  # fmt: skip
"""Endings of moving pictures. A file is opened by what its first bytes say; the ending only makes it a candidate."""

IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
"""Endings of still pictures."""


def user_cache() -> Path:
    """The user's folder of what can be made again: ``cogvideox`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cogvideox"


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
    """A name as messages and JSON can hold it: bytes that are not UTF-8, and lone surrogates, written as escapes."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
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


def walk_files(
    root: str | Path, endings: Collection[str] | None, hidden: bool = False
) -> Iterator[tuple[str, str | None]]:
    """(name below ``root``, None) for each file whose name ends in one of ``endings`` (".mp4", lower case; None: any),
    and (name, reason) for each folder that is not entered: a link to a folder, one that cannot be listed.

    In the order of names; memory holds the names of the open folders only. Links and pipes are among the files, for the
    caller to judge. Hidden files and folders are passed over unless ``hidden``.
    """
    waiting = [iter([""])]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            continue
        path = os.path.join(root, name)
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode) or not name:
                entries = sorted(os.listdir(path))  # DirEntry objects would be three times as heavy
                prefix = f"{name}/" if name else ""
                waiting.append(iter([prefix + each for each in entries if hidden or each[0] != "."]))
            elif stat.S_ISLNK(mode) and os.path.isdir(path):
                yield name, "a link to a folder is not followed; move the folder itself there"
            elif endings is None or os.path.splitext(name)[1].lower() in endings:
                yield name, None
        except OSError as error:
            yield name or ".", f"the folder cannot be listed ({error.strerror}); check its name and rights"


def files_below(
    root: str | Path,
    endings: Collection[str] | None,
    skipped: MutableMapping[str, str] | None = None,
    hidden: bool = False,
) -> list[Path]:
    """The files of ``walk_files`` as a list; ``skipped`` gets the reason for each folder that is not entered."""
    files = []
    for name, reason in walk_files(root, endings, hidden):
        if reason is None:
            files.append(Path(root, name))
        elif skipped is not None:
            skipped[shown(name)[:200]] = reason
    return files
