"""Clips inside other files: members of webdataset shards (.tar) and rows of Parquet tables.

A member is found by its place and read alone; an archive is never unpacked as a whole, no name in it becomes a
path, and nothing in it is unpickled or run.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideox.errors import DependencyError, MediaError

LARGEST = 4 << 30  # bytes of one member


@dataclass(frozen=True)
class Part:
    """Where the bytes of a clip are: a whole file, ``size`` bytes of it from ``start``, or a cell of a table."""

    file: Path
    start: int = 0
    size: int | None = None
    row: int | None = None
    column: str = ""
    suffix: str = ""

    @property
    def length(self) -> int | None:
        """How many bytes there are; None for a cell of a table, and for a file that is gone."""
        if self.size is not None or self.row is not None:
            return self.size
        return self.file.stat().st_size if self.file.is_file() else None

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A path to a plain file with these bytes, for as long as the block runs. Raises MediaError."""
        if self.size is None and self.row is None:
            yield self.file
            return
        with tempfile.NamedTemporaryFile(suffix=self.suffix) as copy:
            copy.write(self.read())
            copy.flush()
            yield Path(copy.name)

    def read(self) -> bytes:
        """The bytes. Raises MediaError."""
        try:
            if self.row is not None:
                return _cell(self.file, self.row, self.column)
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
        if self.size is None and self.row is None:
            try:
                with open(self.file, "rb") as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise MediaError(f"{self.file}: cannot be read ({error.strerror}); check the path") from None
        return hashlib.sha256(self.read()).hexdigest()


Found = tuple[str, str | None, Part, Any]
"""Key with its ending, caption, place of the bytes, score."""


def parts_of(shard: Path, endings: frozenset[str]) -> Iterator[Found]:
    """The clips of a shard. Raises MediaError when it is damaged, after what could be read."""
    yield from _members(shard, endings) if shard.suffix == ".tar" else _cells(shard)


def _members(shard: Path, endings: frozenset[str]) -> Iterator[Found]:
    """webdataset: neighbouring members share a key; a clip with a .txt or .json of its key."""
    media: dict[str, tuple[str, Part]] = {}
    facts: dict[str, dict[str, Any]] = {}
    problem = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile() and member.size <= LARGEST:
                    _take(shard, tar, member, endings, media, facts)
    except (tarfile.TarError, OSError, EOFError) as error:
        problem = MediaError(f"{shard}: damaged or cut off ({error}); download it again")
    whole = shard.stat().st_size
    if problem is None and not _has_end(shard, whole):
        problem = MediaError(f"{shard}: cut off, its end mark is missing; download it again")
    for key, (suffix, part) in media.items():
        if part.start + (part.size or 0) <= whole:
            known = facts.get(key, {})
            yield key + suffix, known.get("caption"), part, known.get("score")
        else:
            problem = MediaError(f"{shard}: cut off in {key}{suffix}; download it again")
    if problem:
        raise problem


def _has_end(shard: Path, size: int) -> bool:
    """A whole tar ends with at least two blocks of zeros; tarfile ends in silence where they are missing."""
    with open(shard, "rb") as stream:
        stream.seek(max(0, size - 1024))
        return not any(stream.read()) and size >= 1024


def _take(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, endings, media, facts) -> None:
    path = PurePosixPath(member.name)
    stem, _, ending = path.name.partition(".")
    key, ending = (path.parent / stem).as_posix(), "." + ending.lower()
    if ending in endings:
        media[key] = (ending, Part(shard, member.offset_data, member.size, suffix=ending))
    elif ending in (".txt", ".json", ".caption") and member.size <= 1 << 20:
        stream = tar.extractfile(member)
        text = stream.read().decode("utf-8", "replace") if stream else ""
        facts.setdefault(key, {}).update(_facts(text) if ending == ".json" else {"caption": text})


def _facts(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(values, dict):
        return {}
    caption = next(
        (values[name] for name in ("caption", "text", "prompt") if isinstance(values.get(name), str)), None
    )
    score = next((values[name] for name in ("score", "aesthetic", "aes") if name in values), None)
    return {name: value for name, value in (("caption", caption), ("score", score)) if value is not None}


def parquet_table(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, one group of rows in memory at a time. Raises DependencyError, MediaError."""
    for batch in _opened(file).iter_batches():
        yield from batch.to_pylist()


def _cells(file: Path) -> Iterator[Found]:
    """Rows that hold a clip as bytes: a binary column, or HF's {bytes, path}."""
    table = _opened(file)
    names = table.schema_arrow.names
    column = next((name for name in ("video", "mp4", "image", "bytes", "content") if name in names), None)
    if column is None:
        raise MediaError(
            f"{file}: has columns {', '.join(names[:8])}; the clips should stand in 'video' as bytes"
        )
    light = [
        name for name in names if name in ("caption", "text", "prompt", "score", "aesthetic", "name", "key")
    ]
    row = 0
    for batch in table.iter_batches(columns=light):
        for values in batch.to_pylist():
            key = str(values.get("name") or values.get("key") or f"{row:08d}")
            suffix = PurePosixPath(key).suffix or ".mp4"
            key = key if PurePosixPath(key).suffix else key + suffix
            caption = values.get("caption") or values.get("text") or values.get("prompt")
            score = values.get("score", values.get("aesthetic"))
            yield key, caption, Part(file, row=row, column=column, suffix=suffix), score
            row += 1


def _cell(file: Path, row: int, column: str) -> bytes:
    """One cell; only its group of rows is read."""
    table = _opened(file)
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row < rows:
            value = table.read_row_group(group, columns=[column]).column(0)[row].as_py()
            value = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(value, bytes):
                raise MediaError(f"{file}: row {row} of {column!r} holds no bytes; store the clip itself")
            return value
        row -= rows
    raise MediaError(f"{file}: has {table.metadata.num_rows} rows; it has changed since it was listed")


def _opened(file: Path):
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise DependencyError(
            f"{file}: reading Parquet needs pyarrow; pip install 'cogvideox[data]'"
        ) from None
    try:
        return parquet.ParquetFile(file)
    except (ArrowInvalid, OSError) as error:
        raise MediaError(f"{file}: not a Parquet table ({' '.join(str(error).split())[:120]})") from None
