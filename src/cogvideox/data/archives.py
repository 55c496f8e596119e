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
LONGEST = 1 << 20  # bytes of the text beside one
PICTURES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])


@dataclass(frozen=True)
class Part:
    """Where the bytes of a clip are: a whole file, ``size`` bytes of it from ``start``, or a cell of a table."""

    file: Path
    start: int = 0
    size: int | None = None
    row: int | None = None
    column: str = ""
    suffix: str = ""
    member: str = ""

    @property
    def label(self) -> str:
        """What messages call it: the file, and the row or member."""
        place = f"row {self.row} of {self.column!r}" if self.row is not None else self.member
        return f"{self.file}: {place}" if place else str(self.file)

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
            try:
                yield Path(copy.name)
            except MediaError as error:
                raise MediaError(str(error).replace(copy.name, self.label)) from None

    def read(self) -> bytes:
        """The bytes. Raises MediaError."""
        try:
            if self.row is not None:
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
        if self.size is None and self.row is None:
            try:
                with open(self.file, "rb") as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise MediaError(f"{self.file}: cannot be read ({error.strerror}); check the path") from None
        return hashlib.sha256(self.read()).hexdigest()


Found = tuple[str, str | None, Part, Any]
"""Key with its ending, caption, place of the bytes, score."""


def parts_of(shard: Path, endings: frozenset[str], dropped: dict[str, str]) -> Iterator[Found]:
    """The clips of a shard; what cannot be taken is noted in ``dropped`` by its name in the shard.

    Raises MediaError when the shard is damaged, after what could be read.
    """
    yield from _members(shard, endings, dropped) if shard.suffix == ".tar" else _cells(shard, endings)


def _members(shard: Path, endings: frozenset[str], dropped: dict[str, str]) -> Iterator[Found]:
    """webdataset: neighbouring members share a key; a clip with a .txt or .json of its key.

    Names with more dots than one are common, so the key is all before the last; what webdataset would call the key,
    all before the first, is asked next. A picture beside the video of its key is its thumbnail and no clip.
    """
    found = _Members(shard, endings, dropped)
    problem = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                found.take(tar, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        problem = MediaError(f"{shard}: damaged or cut off ({error}); download it again")
    whole = shard.stat().st_size
    if problem is None and not _has_end(shard, whole):
        problem = MediaError(f"{shard}: cut off, its end mark is missing; download it again")
    for key, part in found.clips():
        if part.start + (part.size or 0) <= whole:
            known = found.known(key)
            yield key + part.suffix, known.get("caption"), part, known.get("score")
        else:
            problem = MediaError(f"{shard}: cut off in {key}{part.suffix}; download it again")
    if problem:
        raise problem


def _has_end(shard: Path, size: int) -> bool:
    """A whole tar ends with at least two blocks of zeros; tarfile ends in silence where they are missing."""
    with open(shard, "rb") as stream:
        stream.seek(max(0, size - 1024))
        return not any(stream.read()) and size >= 1024


class _Members:
    """What a tar holds, by key."""

    def __init__(self, shard: Path, endings: frozenset[str], dropped: dict[str, str]) -> None:
        self.shard, self.endings, self.dropped = shard, endings, dropped
        self.videos: dict[str, Part] = {}
        self.pictures: dict[str, Part] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.heavy: dict[str, str] = {}  # texts that are too long to read, by key

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Note a clip, or read a text; hidden files are passed over, as in a folder."""
        path = PurePosixPath(member.name)
        if member.isdir() or not path.name or path.name.startswith("."):
            return
        key, ending = path.with_suffix("").as_posix(), path.suffix.lower()
        if ending in self.endings:
            self._take_clip(key, ending, member)
        elif ending in (".txt", ".json", ".caption") and member.isfile():
            if member.size > LONGEST:
                self.heavy[key] = f"{path.name} beside it has {member.size} bytes, the most is {LONGEST}"
                return
            stream = tar.extractfile(member)
            text = stream.read().decode("utf-8", "replace") if stream else ""
            facts = _facts(text) if ending == ".json" else {"caption": text}
            self.facts.setdefault(key, {}).update(facts)

    def _take_clip(self, key: str, ending: str, member: tarfile.TarInfo) -> None:
        same = self.pictures if ending in PICTURES else self.videos
        if not member.isfile():
            self.dropped[member.name] = "a link or no ordinary file in the archive; pack the file itself"
        elif member.size > LARGEST:
            self.dropped[member.name] = f"has {member.size} bytes, the most is {LARGEST}; cut it"
        elif key in same:
            name = member.name if member.name != same[key].member else f"{member.name} (again)"
            self.dropped[name] = f"{same[key].member} has the same key and is used; name it otherwise"
        else:
            same[key] = Part(self.shard, member.offset_data, member.size, suffix=ending, member=member.name)

    def clips(self) -> Iterator[tuple[str, Part]]:
        """Clips by key: all videos, and the pictures that stand for themselves."""
        for key, part in (*self.videos.items(), *self.pictures.items()):
            reason = self.heavy.get(key) or self.heavy.get(_first_key(key))
            if part is self.pictures.get(key) and self._is_thumbnail(key):
                continue
            if reason and "caption" not in self.known(key):
                self.dropped[part.member] = f"{reason}; shorten it"
                continue
            yield key, part

    def _is_thumbnail(self, key: str) -> bool:
        """Whether a picture stands for a video: it has its key, or one that begins so and nothing said of its own."""
        return key in self.videos or (_first_key(key) in self.videos and key not in self.facts)

    def known(self, key: str) -> dict[str, Any]:
        """What is said about a clip."""
        return self.facts.get(_first_key(key), {}) | self.facts.get(key, {})


def _first_key(key: str) -> str:
    """What webdataset calls the key: all before the first dot of the name."""
    path = PurePosixPath(key)
    return (path.parent / path.name.partition(".")[0]).as_posix()


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


def _cells(file: Path, endings: frozenset[str]) -> Iterator[Found]:
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
    paths = [f"{column}.path"] if f"{column}.path" in {c.path for c in table.schema} else []
    row = 0
    for batch in table.iter_batches(columns=light + paths):
        for values in batch.to_pylist():
            key = str(values.get("name") or values.get("key") or f"{row:08d}")
            path = (values.get(column) or {}).get("path") if paths else None
            suffix = _suffix(key, path, column, endings)
            key = key if key.lower().endswith(suffix) else key + suffix
            caption = values.get("caption") or values.get("text") or values.get("prompt")
            score = values.get("score", values.get("aesthetic"))
            yield key, caption, Part(file, row=row, column=column, suffix=suffix), score
            row += 1


def _suffix(key: str, path: Any, column: str, endings: frozenset[str]) -> str:
    """Of the row's name, else of the path that HF keeps beside the bytes, else what the column's name says."""
    given = (PurePosixPath(str(name)).suffix.lower() for name in (key, path or ""))
    return next((suffix for suffix in given if suffix in endings), ".png" if column == "image" else ".mp4")


def _cell(part: Part) -> bytes:
    """One cell; only its group of rows is read."""
    table = _opened(part.file)
    row = part.row or 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row < rows:
            value = table.read_row_group(group, columns=[part.column]).column(0)[row].as_py()
            value = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(value, bytes):
                raise MediaError(f"{part.label} holds no bytes; store the clip itself")
            return value
        row -= rows
    raise MediaError(f"{part.file}: has {table.metadata.num_rows} rows; it has changed since it was listed")


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
