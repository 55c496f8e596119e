"""Clips inside other files: members of webdataset shards (.tar) and rows of Parquet tables.

A member is found by its position and read alone; an archive is never unpacked as a whole, no name in it becomes a
path, and nothing in it is unpickled or run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideox.clip_folders.columns import Columns, row_of
from cogvideox.clip_folders.parquet import light_columns, open_parquet, parquet_errors, rows_of
from cogvideox.errors import MediaError
from cogvideox.files.digest import sha256_of

BATCH = 8  # rows of clips in memory at a time


@dataclass(frozen=True)
class ByteRange:
    """Where the bytes of a clip are: a whole file, ``size`` bytes of it from ``start``, or a cell of a table."""

    file: Path
    start: int = 0
    size: int | None = None
    row_number: int | None = None
    column: str = ""
    suffix: str = ""
    member: str = ""

    @property
    def label(self) -> str:
        """What messages call it: the file, and the row or member."""
        cell = f"row {self.row_number} of {self.column!r}" if self.row_number is not None else self.member
        return f"{self.file}: {cell}" if cell else str(self.file)

    @property
    def length(self) -> int | None:
        """How many bytes there are; None for a cell of a table, and for a file that is gone."""
        if self.size is not None or self.row_number is not None:
            return self.size
        return self.file.stat().st_size if self.file.is_file() else None

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A path to a plain file with these bytes, for as long as the block runs. Raises MediaError."""
        if self.size is None and self.row_number is None:
            yield self.file
            return
        with tempfile.NamedTemporaryFile(suffix=self.suffix) as copy:
            copy.write(self.read())
            copy.flush()
            try:
                yield Path(copy.name)
            except MediaError as error:
                raise MediaError(str(error).replace(copy.name, self.label)) from None

    def read(self) -> bytes:
        """The bytes. Raises MediaError."""
        try:
            if self.row_number is not None:
                return _cell(self)
            with open(self.file, "rb") as stream:
                stream.seek(self.start)
                data = stream.read() if self.size is None else stream.read(self.size)
        except OSError as error:
            raise MediaError(f"{self.file}: cannot be read ({error.strerror}); check the path") from None
        if self.size is not None and len(data) != self.size:
            raise MediaError(
                f"{self.file}: cut off at byte {self.start + len(data)}; download the shard again"
            )
        return data

    def digest(self) -> str:
        """SHA-256 of the bytes. Raises MediaError."""
        whole = self.size is None and self.row_number is None
        return sha256_of(self.file) if whole else hashlib.sha256(self.read()).hexdigest()


@dataclass(frozen=True)
class ArchiveEntry:
    """One clip of a shard: key with its ending, caption, where its bytes are, score, and why it cannot be used."""

    key: str
    caption: Any
    location: ByteRange
    score: Any = None
    problem: str | None = None


def holds_clips(file: Path) -> bool:
    """Whether a Parquet table holds clips as bytes; one that cannot be opened counts, so that it is named."""
    try:
        return _clip_column(open_parquet(file, None)) is not None
    except MediaError:
        return True


CLIP_COLUMNS = ("video", "mp4", "image", "bytes", "content")


def _clip_column(table: Any) -> str | None:
    """The column of bytes, or of HF's {bytes, path}."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind)

    fields = {field.name: field.type for field in table.schema_arrow}
    return next((name for name in CLIP_COLUMNS if name in fields and is_bytes(fields[name])), None)


def clips_in_table(
    file: Path, endings: frozenset[str], dropped: dict[str, str], columns: Columns
) -> Iterator[ArchiveEntry]:
    """The rows of a Parquet table that hold a clip as bytes: a binary column, or HF's {bytes, path}.

    What cannot be taken is noted in ``dropped`` by its name. Raises MediaError when the table is damaged, after what
    could be read.
    """
    table = open_parquet(file, None)
    column = _clip_column(table)
    if column is None:
        names = ", ".join(table.schema_arrow.names[:8])
        raise MediaError(f"{file}: has columns {names}; the clips should stand in 'video' as bytes")
    light = light_columns(table)
    _, captions, scores = columns.among(light)
    light = [*captions, *scores, *(name for name in light if name in ("name", "key"))]
    paths = [f"{column}.path"] if f"{column}.path" in {c.path for c in table.schema} else []
    for row, values in rows_of(table, light + paths):
        if isinstance(values, str):
            dropped[values] = "damaged; download the table again"
            continue
        key = str(values.get("name") or values.get("key") or f"{row:08d}")
        path = (values.get(column) or {}).get("path") if paths else None
        suffix = _suffix(key, path, column, endings)
        key = key if key.lower().endswith(suffix) else key + suffix
        row_values = row_of({name: values.get(name) for name in [*captions, *scores]}, "", columns)[0]
        location = ByteRange(file, row_number=row, column=column, suffix=suffix)
        yield ArchiveEntry(key, row_values.caption, location, row_values.score, row_values.problem)


def _suffix(key: str, path: Any, column: str, endings: frozenset[str]) -> str:
    """Of the row's name, else of the path that HF keeps beside the bytes, else what the column's name says."""
    given = (PurePosixPath(str(name)).suffix.lower() for name in (key, path or ""))
    return next((suffix for suffix in given if suffix in endings), ".png" if column == "image" else ".mp4")


def _cell(location: ByteRange) -> bytes:
    """One cell; only its group of rows is read, and no row of it behind the cell. Raises MediaError."""
    table = open_parquet(location.file, None)
    row = location.row_number or 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row < rows:
            try:
                value = _value(table, group, row, location.column)
            except parquet_errors() as error:
                why = " ".join(str(error).split())[:80]
                raise MediaError(f"{location.label}: damaged ({why}); download the table again") from None
            value = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(value, bytes):
                raise MediaError(f"{location.label} holds no bytes; store the clip itself")
            return value
        row -= rows
    raise MediaError(
        f"{location.file}: has {table.metadata.num_rows} rows; it has changed since it was listed"
    )


def _value(table: Any, group: int, index: int, column: str) -> Any:
    for batch in table.iter_batches(BATCH, row_groups=[group], columns=[column]):
        if index < batch.num_rows:
            return batch.column(0)[index].as_py()
        index -= batch.num_rows
    return None
