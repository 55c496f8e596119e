"""Columns of tables and keys of JSON objects: which names the file, which the caption, which a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cogvideox.errors import ConfigError, suggest
from cogvideox.files import short, shown

FILE_COLUMNS = (
    "file_name", "file_path", "video", "path", "video_path", "videos", "file", "image", "filename",
)  # fmt: skip
"""Columns that name a clip's file, in order of preference: HF's videofolder, VideoX-Fun, Open-Sora, OpenVid."""

CAPTION_COLUMNS = ("caption", "text", "prompt", "prompt_en", "description")
"""Columns that hold a caption, in order of preference."""

SCORE_COLUMNS = ("score", "aesthetic", "aes", "aesthetic_score", "aesthetic score")
"""Columns that hold an aesthetic score."""

VIDEO_LISTS = ("video_list",)
"""Columns with several files each: VBench's full_info.json."""

NO_CAPTION = frozenset(["nan", "null", "none", "n/a", "na", "<na>"])
"""What programs write into a table where a caption is missing."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table that hold captions and files; None: those that are commonly used."""

    caption: str | None = None
    file: str | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """Columns that may hold the caption."""
        return (self.caption,) if self.caption else CAPTION_COLUMNS

    @property
    def files(self) -> tuple[str, ...]:
        """Columns that may name the file."""
        return (self.file,) if self.file else (*FILE_COLUMNS, *VIDEO_LISTS)

    def among(self, names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
        """Of the column names of a table: (files, captions, scores), each in order of preference."""
        names = list(names)
        return _known(names, self.files), _known(names, self.captions), _known(names, SCORE_COLUMNS)


@dataclass(frozen=True)
class TableRow:
    """One row of a table or line of a list. ``where``: file and line; ``problem``: why it cannot be used.

    files: what the row calls its clip, in order of preference; several where two columns name one. A row without any
    is about no file by name (VBench's prompts).
    """

    where: str
    files: tuple[str, ...] = ()
    caption: Any = None
    score: Any = None
    problem: str | None = None


def plain(name: Any) -> str:
    """A column name as it is compared: without case and spaces around it."""
    return str(name).strip().lower()


def _known(names: list[str], wanted: Sequence[str]) -> list[str]:
    by_plain = {plain(name): name for name in reversed(names)}
    return [by_plain[plain(want)] for want in wanted if plain(want) in by_plain]


def check_names(names: Sequence[str], columns: Columns, where: str) -> None:
    """Raises ConfigError for a header in which a name stands twice, or that lacks a column that was asked for."""
    twice = [name for name, count in Counter(map(plain, names)).items() if count > 1 and name]
    if twice:
        raise ConfigError(f"{where}: the column {short(twice[0])} stands twice in the header; rename one")
    for asked, setting in ((columns.caption, "caption_column"), (columns.file, "file_column")):
        if asked is not None and plain(asked) not in map(plain, names):
            there = ", ".join(short(name, 40) for name in names[:12])
            raise ConfigError(
                f"{where}: has no column {asked!r}{suggest(asked, names)}; {setting} can be one of {there}"
            )


def row_of(values: Mapping[str, Any], where: str, columns: Columns) -> list[TableRow]:
    """What a table's row or a JSON object says; several rows where it lists several files."""
    files, captions, scores = columns.among(values)
    given = {name: values[name] for name in captions if values[name] not in (None, "")}
    texts = {" ".join(v.split()) if isinstance(v, str) else repr(v) for v in given.values()}
    problem = None
    if len(texts) > 1:
        names, first = " and ".join(repr(name) for name in list(given)[:3]), next(iter(given))
        problem = f"has captions that differ in {names}; choose one with task.data.caption_column={first}"
    caption = next(iter(given.values()), None)
    if problem is None and isinstance(caption, str) and plain(caption) in NO_CAPTION:
        problem = f"the caption is {caption!r}, which programs write where there is none; write one"
    if caption is None and captions:
        caption = ""
    score = next((values[name] for name in scores if values[name] not in (None, "")), None)
    named = [values[name] for name in files if values[name] not in (None, "", [])]
    if named and isinstance(named[0], list):
        return [TableRow(where, (_file(each),), caption, score, problem) for each in named[0][:10_000]]
    return [TableRow(where, tuple(dict.fromkeys(map(_file, named))), caption, score, problem)]


def _file(value: Any) -> str:
    """A file as a table names it; HF writes {bytes, path}."""
    if isinstance(value, dict):
        value = value.get("path") or ""
    return value if isinstance(value, str) else short(value)


def line_label(name: str, what: str, number: int, last: int | None = None) -> str:
    """'metadata.csv line 3', 'metadata.csv lines 3 to 5'."""
    if last is not None and last > number:
        return f"{shown(name)} {what}s {number} to {last}"
    return f"{shown(name)} {what} {number}"
