"""Tables as people write them: csv, tsv, json, jsonl. What is not certain becomes a row with a problem, by its line.

A whole table is refused (ConfigError) where no row of it can be trusted: another encoding, a header that is missing or
has a name twice, a column that was asked for and is not there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cogvideox.clip_folders.columns import Columns, TableRow, check_names, line_label, row_of
from cogvideox.clip_folders.parquet import parquet_names, parquet_rows
from cogvideox.errors import ConfigError
from cogvideox.files import decode_text, open_regular, parse_json, read_small_text, short, shown
from cogvideox.files.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
DELIMITERS = {",": "comma", ";": "';'", "\t": "tab", "|": "'|'"}
MOST_BYTES = 2 << 30  # of a table that is read line by line
MOST_JSON = 128 << 20  # of a table that is read as a whole
MOST_VALUES = 8_000_000  # of a JSON table
MOST_LINE = 16 << 20  # bytes
LONGEST_FIELD = 1 << 20  # characters of a cell
MOST_PROBLEMS = 100_000  # rows in one table that cannot be read
MEDIA_NAME = re.compile(
    rf"[^\s,;|]\.({'|'.join(ending[1:] for ending in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))})\b",
    re.IGNORECASE,
)


@dataclass
class CaptionTable:
    """An open question to one table: ``names`` of its columns, ``notes`` on how it is read."""

    path: Path
    root: Path
    columns: Columns
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The table as messages name it."""
        return shown(self.path.relative_to(self.root).as_posix() if self.inside else str(self.path))

    @property
    def inside(self) -> Path | None:
        """The folder its bytes must lie in; None for a table outside of it, which a user named."""
        return self.root if self.path.is_relative_to(self.root) else None

    def records(self) -> Iterator[TableRow]:
        """Every row. Raises ConfigError for a table of which none can be trusted, or that is no plain file."""
        problems = 0
        for row in self._records():
            if row.problem:
                problems += 1
                if problems > MOST_PROBLEMS:
                    raise ConfigError(
                        f"{self.where}: more than {MOST_PROBLEMS:,} rows cannot be used, such as {row.where}: "
                        f"{row.problem}"
                    )
            yield row

    def _records(self) -> Iterator[TableRow]:
        ending = self.path.suffix.lower()
        if ending == ".parquet":
            yield from parquet_rows(self.path, self.inside, self.where, self.columns)
        elif ending in (".csv", ".tsv"):
            yield from _csv_rows(self)
        elif ending in (".json", ".jsonl") and _is_lines(self):
            yield from _json_lines(self)
        elif ending in (".json", ".jsonl"):
            yield from _json_rows(self)
        else:
            raise ConfigError(f"{self.where}: not a table by its ending; name it {', '.join(ENDINGS)}")


def has_columns(table: CaptionTable) -> tuple[bool, bool]:
    """Whether a table names files and holds captions, from its first rows. Raises ConfigError where it is unreadable.

    Also fills ``table.names``.
    """
    ending = table.path.suffix.lower()
    if ending == ".parquet":
        table.names = parquet_names(table.path, table.inside, table.where)
    elif ending in (".csv", ".tsv"):
        with _Lines(table) as lines:
            table.names = _header(table, lines, strict=False)[1]
    else:
        row = next(_first_objects(table), {})
        table.names = list(row)
    files, captions, _ = table.columns.among(table.names)
    return bool(files), bool(captions)


# --- lines ---


class _Lines:
    """Lines of a table with their ends, decoded one by one; ``number`` of the last one. Raises ConfigError."""

    def __init__(self, table: CaptionTable) -> None:
        self.table, self.number = table, 0

    def __enter__(self) -> _Lines:
        self._opened = open_regular(
            self.table.path, root=self.table.inside, most=MOST_BYTES, error=ConfigError
        )
        self._stream: BinaryIO = self._opened.__enter__()
        self._text: Iterator[str] | None = None
        if self._stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            self._stream.seek(0)
            text = decode_text(self._stream.read(MOST_JSON), self.table.where, error=ConfigError)
            self._text = io.StringIO(text, newline="\n")
        self._stream.seek(0)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._text is not None:
            text = next(self._text)
            self.number += 1
            return text
        line = self._stream.readline(MOST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        here = f"{self.table.where}: line {self.number}"
        if len(line) >= MOST_LINE:
            raise ConfigError(f"{here} has more than {MOST_LINE >> 20} MiB; repair it")
        try:
            text = line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as problem:
            byte = f"{line[problem.start]:#04x}"
            raise ConfigError(f"{here} is not UTF-8 (byte {byte}); save the table as UTF-8") from None
        if "\0" in text:
            raise ConfigError(f"{here} holds a NUL character; save the table as UTF-8 text")
        return text


# --- csv ---


def _csv_rows(table: CaptionTable) -> Iterator[TableRow]:
    csv.field_size_limit(LONGEST_FIELD)
    with _Lines(table) as lines:
        delimiter, names = _header(table, lines, strict=True)
        before, reader = lines.number, csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            problem = ""
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = _csv_problem(error)
            where = line_label(table.where, "line", before + 1, lines.number)
            if problem:
                yield TableRow(where, problem=problem)
            elif fields:
                yield from _csv_row(table, names, fields, where)
            before = lines.number


def _csv_row(table: CaptionTable, names: list[str], fields: list[str], where: str) -> list[TableRow]:
    if len(fields) != len(names):
        than = f"{'more' if len(fields) > len(names) else 'fewer'} than the {len(names)} of the header"
        quote = "put quotes around a caption that holds the delimiter"
        return [TableRow(where, problem=f"{len(fields)} fields, {than}; {quote}")]
    for field_ in fields:
        _, newline, rest = field_.partition("\n")
        if newline and (found := MEDIA_NAME.search(rest)):
            other = short(rest[: found.end()].rsplit("\n", 1)[-1][-80:])
            problem = f"are one row, and its text names another file ({other}); close the quote"
            return [TableRow(where, problem=problem)]
    return row_of(dict(zip(names, fields, strict=True)), where, table.columns)


def _csv_problem(error: csv.Error) -> str:
    what = str(error)
    if "end of data" in what:
        return "a quote that opens there is never closed; close it, or double it"
    if "expected after" in what:
        return "a quote closes inside a field; double the quotes inside quotes"
    return f"cannot be read as CSV ({what}); repair it"


def _header(table: CaptionTable, lines: _Lines, strict: bool) -> tuple[str, list[str]]:
    """The delimiter and the column names. Raises ConfigError unless both are certain (when ``strict``)."""
    first = next((line for line in lines if line.strip()), "")
    found: dict[str, list[str]] = {}
    delimiters = ("\t",) if table.path.suffix.lower() == ".tsv" else tuple(DELIMITERS)
    for delimiter in delimiters:
        try:
            found[delimiter] = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
    usual = delimiters[0]

    def score(names: list[str]) -> int:
        files, captions, _ = table.columns.among(names)
        return bool(files) + bool(captions)

    best = max(found, key=lambda delimiter: score(found[delimiter]), default=usual)
    if usual not in found and not (best in found and score(found[best])):
        raise ConfigError(
            f"{table.where}: line {lines.number}, the header, has a quote that is not closed; close it"
        )
    delimiter = best if score(found[best]) else usual
    names = found[delimiter]
    if not strict:
        return delimiter, names
    check_names(names, table.columns, table.where)
    files, captions, _ = table.columns.among(names)
    if not files:
        what = "holds no header" if MEDIA_NAME.search(first) else "has no column that names a file"
        wanted = ", ".join(table.columns.files[:5])
        raise ConfigError(
            f"{table.where}: the first line {short(first.strip(), 80)} {what}; write one ({wanted}, ..., and "
            "caption or text), or name the columns: task.data.file_column=, task.data.caption_column="
        )
    if delimiter != usual:
        table.notes.append(f"{table.where}: fields are divided by {DELIMITERS[delimiter]}")
    table.names = names
    return delimiter, names


# --- json ---


def _is_lines(table: CaptionTable) -> bool:
    """Whether a file is JSON lines by what it holds: either ending stands before both kinds."""
    with _Lines(table) as lines:
        full = [line.strip() for line in islice(filter(str.strip, lines), 2)]
    if not full or full[0].startswith("["):
        return False
    if table.path.suffix.lower() == ".jsonl":
        return True
    try:
        return len(full) > 1 and isinstance(parse_json(full[0], table.where, nan_is_none=True), dict)
    except ConfigError:
        return False


def _json_lines(table: CaptionTable) -> Iterator[TableRow]:
    with _Lines(table) as lines:
        for line in filter(str.strip, lines):
            where = line_label(table.where, "line", lines.number)
            try:
                values = parse_json(line.strip(), "the line", nan_is_none=True)
            except ConfigError as error:
                yield TableRow(where, problem=str(error))
                continue
            if not isinstance(values, dict):
                yield TableRow(where, problem=f"is {type(values).__name__}, not an object; write {{...}}")
                continue
            yield from row_of(values, where, table.columns)


def _json_rows(table: CaptionTable) -> Iterator[TableRow]:
    for where, values in _json_objects(table):
        if isinstance(values, dict):
            yield from row_of(values, where, table.columns)
        else:
            yield TableRow(where, problem=f"is {type(values).__name__}, not an object; write {{...}}")


def _json_objects(table: CaptionTable) -> Iterator[tuple[str, Any]]:
    """A list of objects; or one object of file name -> caption, or file name -> object."""
    text = read_small_text(table.path, root=table.inside, most=MOST_JSON, error=ConfigError)
    if text.count(",") + text.count(":") + text.count("[") > MOST_VALUES:
        most = f"more than {MOST_VALUES:,} values"
        raise ConfigError(f"{table.where}: {most}; write a line for each clip (.jsonl)")
    values = parse_json(text, table.where, nan_is_none=True)
    if isinstance(values, list):
        for number, each in enumerate(values, 1):
            yield line_label(table.where, "item", number), each
        return
    if not isinstance(values, dict):
        raise ConfigError(f"{table.where}: is neither a list nor an object; write a list of objects")
    file, caption = table.columns.files[0], table.columns.captions[0]
    if any(table.columns.among(values)[:2]) and all(not isinstance(v, dict) for v in values.values()):
        yield line_label(table.where, "item", 1), values
        return
    if not any(MEDIA_NAME.search(key) for key in values):
        raise ConfigError(f"{table.where}: an object whose keys name no clip; write a list of objects")
    for name, each in values.items():
        where = f"{table.where} key {short(shown(name), 60)}"
        yield where, {file: name, **each} if isinstance(each, dict) else {file: name, caption: each}


def _first_objects(table: CaptionTable) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON table that can be read, the first first."""
    if _is_lines(table):
        with _Lines(table) as lines:
            for line in lines:
                try:
                    values = parse_json(line, table.where, nan_is_none=True) if line.strip() else None
                except ConfigError:
                    continue
                if isinstance(values, dict):
                    yield values
        return
    yield from (each for _, each in _json_objects(table) if isinstance(each, dict))
