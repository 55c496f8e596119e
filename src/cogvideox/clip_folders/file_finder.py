"""From what a table calls a file to the file: beside the table, in the folder, with the folder's name in front."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cogvideox.files import files_below
from cogvideox.files.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES


class FileFinder:
    """Finds files that tables name. ``base``: the folder of the table; ``root``: the folder that is read."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root, self.base = root, base
        self._own = {root.name, root.resolve().name} - {""}
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, names: Sequence[str]) -> tuple[Path, str | None]:
        """The file and None; or where it should be and why it is not certain. Existence is left to the caller.

        names: what a row calls its file, in order of preference; the first that is there counts.
        """
        there = [file for file in map(self._find, names) if os.path.lexists(file)]
        if there:
            return there[0], self._unlike(names, there)
        for name in names:
            same = [] if _components(name)[1:] else self._called(name)
            if len(same) == 1:
                return same[0], None
            if len(same) > 1:
                return self.base / name, f"{len(same)} files have this name; write the path"
        return self._find(names[0]), None

    def _find(self, name: str) -> Path:
        """Where a name leads: relative to the table, to the folder, or to the folder around it."""
        name = name.strip()
        for text in dict.fromkeys((name, name.replace("\\", "/"))):
            tries = [self.base / text, self.root / text]
            components = _components(text)
            if components[1:] and components[0] in self._own:
                tries.append(self.root.joinpath(*components[1:]))
            for file in tries:
                if os.path.lexists(file):
                    return file
        return self.base / name

    def _unlike(self, names: Sequence[str], there: list[Path]) -> str | None:
        """A video and the picture it begins with are one clip; two videos are not."""
        videos = {os.path.realpath(file) for file in there if file.suffix.lower() in VIDEO_SUFFIXES}
        if len(videos) < 2:
            return None
        both = " and ".join(map(repr, names[:3]))
        return f"two columns name different files ({both}); choose one with task.data.file_column="

    def _called(self, name: str) -> list[Path]:
        """Files anywhere in the folder with exactly this name."""
        if self._by_name is None:
            self._by_name = {}
            for file in files_below(self.root, VIDEO_SUFFIXES | IMAGE_SUFFIXES):
                self._by_name.setdefault(file.name, []).append(file)
        return self._by_name.get(name.strip(), [])


def _components(text: str) -> tuple[str, ...]:
    return PurePosixPath(text).parts
