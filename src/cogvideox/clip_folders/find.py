"""Which table or list of a folder says what its videos show, and which file of the folder a row of it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cogvideox.clip_folders.columns import Columns, TableRow
from cogvideox.clip_folders.tables import ENDINGS, CaptionTable, has_columns
from cogvideox.clip_folders.texts import CAPTION_LISTS, FILE_LISTS, find_lists, list_rows
from cogvideox.errors import CogVideoXError, ConfigError
from cogvideox.files import files_below, inside, short, shown
from cogvideox.files.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.json", "metadata.tsv")
FOLDERS = ("", "train", "data")
MOST_TABLES = 40  # files with a table's ending that are looked into, beside those with a known name


@dataclass(frozen=True)
class CaptionSource:
    """Where a user says that the captions are; all None: found by the usual names.

    captions: a table, or a list beside videos.txt; relative to the folder, or as typed.
    """

    captions: str | None = None
    columns: Columns = Columns()


@dataclass
class ListedCaptions:
    """A table or list that says what the clips of a folder show. ``base``: what its file names are relative to.

    ``records`` can be walked once; reading it raises ConfigError. ``notes``: what a person should know, whole after it.
    """

    layout: str
    base: Path
    records: Iterator[TableRow]
    notes: list[str] = field(default_factory=list)
    source: Path | None = None


def find_captions(root: Path, source: CaptionSource) -> ListedCaptions | None:
    """The table or lists that were asked for, or those with a usual name. Raises ConfigError."""
    if source.captions is not None:
        return _asked(root, source.captions, source.columns)
    tables = [table for table in _named_tables(root, source.columns) if _is_table(table)]
    if tables:
        listed = _table(tables[0])
        listed.notes += [f"{other.where} is not read, {tables[0].where} is" for other in tables[1:]]
        return listed
    lists = find_lists(root)
    return _lists(root, *lists) if lists else None


def find_only_table(root: Path, columns: Columns, default: bool = False) -> ListedCaptions | None:
    """The one table of a folder, whatever its name, that names files and holds captions; None without one.

    default: a caption is known for clips without one, so that a table of files alone will do. Raises ConfigError when
    there are several.
    """
    fitting = []
    for table in _other_tables(root, columns):
        try:
            files, captions = has_columns(table)
        except CogVideoXError:
            continue
        if files and (captions or default):
            fitting.append(table)
    if len(fitting) > 1:
        names = ", ".join(table.where for table in fitting[:5])
        raise ConfigError(
            f"{root}: {len(fitting)} tables name clips and captions ({names}); choose one with "
            f"task.data.captions={fitting[0].where} (data doctor: --captions)"
        )
    return _table(fitting[0]) if fitting else None


def prompts_alone(root: Path, columns: Columns) -> list[str]:
    """Prompts of tables that name no files: VBench's list of prompts, whose videos are named by them."""
    prompts: list[str] = []
    for table in _other_tables(root, columns):
        try:
            if has_columns(table) == (False, True):
                prompts += [row.caption for row in table.records() if isinstance(row.caption, str)]
        except CogVideoXError:
            continue
    return prompts


def candidate_files(root: Path, columns: Columns) -> list[str]:
    """The text, csv and json files of a folder that might hold captions, each with why it was not read."""
    seen = []
    for table in [*_named_tables(root, columns), *_other_tables(root, columns)]:
        try:
            files, captions = has_columns(table)
            lacks = [what for there, what in ((files, "file"), (captions, "caption")) if not there]
            names = ", ".join(short(name, 30) for name in table.names[:8])
            why = f"no {' or '.join(lacks)} column among {names}" if lacks else "has both columns"
        except CogVideoXError as error:
            why = str(error).removeprefix(f"{table.where}: ")[:100]
        seen.append(f"{table.where} ({why})")
    beside = {path.stem for path in _entries(root) if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES}
    for path in _entries(root):
        if path.suffix.lower() == ".txt" and path.stem not in beside:
            listed = path.name in CAPTION_LISTS
            needs = f" (needs {FILE_LISTS[0]} beside it: the file of each line)" if listed else ""
            seen.append(shown(path.name) + needs)
    return seen


def _asked(root: Path, captions: str, columns: Columns) -> ListedCaptions:
    file = root / captions if os.path.lexists(root / captions) else Path(captions)
    if not os.path.lexists(file):
        raise ConfigError(f"captions {captions!r}: no such file in {root} or here; check the path")
    if file.suffix.lower() in ENDINGS:
        return _table(CaptionTable(file, root, columns))
    files = next((root / name for name in FILE_LISTS if os.path.lexists(root / name)), None)
    if files is None:
        raise ConfigError(
            f"captions {captions!r}: is no table ({', '.join(ENDINGS)}); as a list of captions it needs "
            f"{root / FILE_LISTS[0]}, the file of each line"
        )
    return _lists(root, files, [file])


def _table(table: CaptionTable) -> ListedCaptions:
    return ListedCaptions(f"table {table.where}", table.path.parent, table.records(), table.notes, table.path)


def _lists(root: Path, files: Path, captions: list[Path]) -> ListedCaptions:
    records = list_rows(root, files, captions)
    return ListedCaptions(f"lines of {files.name} and {captions[0].name}", root, records, source=captions[0])


def _named_tables(root: Path, columns: Columns) -> list[CaptionTable]:
    files = [root / folder / name for folder in FOLDERS for name in METADATA]
    return [CaptionTable(file, root, columns) for file in files if os.path.lexists(file)]


def _is_table(table: CaptionTable) -> bool:
    """A metadata.json may be about anything; the others are tables by their name."""
    if table.path.suffix.lower() != ".json":
        return True
    try:
        return has_columns(table)[0]
    except CogVideoXError:
        return False


def _other_tables(root: Path, columns: Columns) -> list[CaptionTable]:
    """Files with a table's ending and no name of our own knowledge, that stand for no single clip."""
    paths: list[Path] = []
    for folder in FOLDERS:
        entries = _entries(root / folder) if inside(root / folder, root) else []
        media = {path.stem for path in entries if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES}
        paths += [
            path
            for path in entries
            if path.suffix.lower() in ENDINGS and path.name not in METADATA and path.stem not in media
        ]
    return [CaptionTable(path, root, columns) for path in paths[:MOST_TABLES]]


def _entries(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if not name.startswith(".")]


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
            same = [] if PurePosixPath(name).parts[1:] else self._called(name)
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
            components = PurePosixPath(text).parts
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
