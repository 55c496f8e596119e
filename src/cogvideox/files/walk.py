"""Walk through a folder of anybody's: no link is followed to another folder, no depth or name ends the walk."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

from cogvideox.files.text import shown


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
