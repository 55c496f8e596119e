"""Clips in webdataset shards (.tar) from untrusted sources: one member after the other, whatever its header claims.

``tarfile`` reads the headers through a stream that refuses what hostile headers ask for: a header of more than 1 MiB,
reading on and on behind the end. A member of negative size, which would send it back, is dropped, and reading goes on
behind it.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cogvideox.clip_folders.archives import ArchiveEntry, ByteRange
from cogvideox.clip_folders.columns import Columns, row_of
from cogvideox.clip_folders.texts import caption_of_record
from cogvideox.errors import InputError, MediaError
from cogvideox.files import decode_text, open_regular, parse_json, shown
from cogvideox.files.paths import IMAGE_SUFFIXES

LARGEST = 4 << 30  # bytes of one member
LONGEST = 1 << 20  # bytes of the text beside a clip, and of a header
BLOCK = tarfile.BLOCKSIZE
MOST_BYTES = 1 << 50  # no limit of ours: members are read alone
DAMAGED = (
    tarfile.TarError, OSError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError,
    RecursionError, struct.error,
)  # fmt: skip
"""What ``tarfile`` raises for headers that are none."""


def members_of(
    shard: Path, endings: frozenset[str], dropped: dict[str, str], columns: Columns
) -> Iterator[ArchiveEntry]:
    """webdataset: neighbouring members share a key; a clip with a .txt or .json of its key.

    Names with more dots than one are common, so the key is all before the last; what webdataset would call the key,
    all before the first, is asked next. A picture beside the video of its key is its thumbnail and no clip. Raises
    MediaError, after what could be read, when the shard is damaged.
    """
    members = _Members(shard, endings, dropped, columns)
    with open_regular(shard, most=MOST_BYTES, error=MediaError) as stream:
        problem = members.read(stream)
        whole = stream.seek(0, 2)
        if problem is None and not _has_end(stream, whole):
            problem = MediaError(f"{shard}: cut off, its end mark is missing; download it again")
    for key, location in members.clips():
        if location.start + (location.size or 0) <= whole:
            caption, why = members.caption(key)
            yield ArchiveEntry(key + location.suffix, caption, location, members.score(key), why)
        else:
            problem = MediaError(f"{shard}: cut off in {shown(key)}{location.suffix}; download it again")
    if problem:
        raise problem


def _has_end(stream: BinaryIO, size: int) -> bool:
    """A whole tar ends with at least two blocks of zeros; tarfile ends in silence where they are missing."""
    stream.seek(max(0, size - 2 * BLOCK))
    return not any(stream.read(2 * BLOCK)) and size >= 2 * BLOCK


class _Headers:
    """The stream as ``tarfile`` may read it: in headers of at most ``LONGEST`` bytes, and not behind its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._behind = stream, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._stream.read(size)
        self._behind = 0 if data else self._behind + 1
        if self._behind > 4:
            raise tarfile.ReadError("a header that goes on behind the end")
        return data

    def close(self) -> None:
        """Whoever opened the stream closes it."""


class _Members:
    """What a tar holds, by key."""

    def __init__(
        self, shard: Path, endings: frozenset[str], dropped: dict[str, str], columns: Columns
    ) -> None:
        self.shard, self.endings, self.dropped, self.columns = shard, endings, dropped, columns
        self.videos: dict[str, ByteRange] = {}
        self.pictures: dict[str, ByteRange] = {}
        self.texts: dict[str, str] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, str] = {}  # texts that cannot be read, by key

    def read(self, stream: BinaryIO) -> MediaError | None:
        """Note every member; the damage that ended the reading, if any."""
        headers: Any = _Headers(stream)
        tar: Any
        try:
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # a list of all would grow with the shard
                    if member.size < 0:
                        self._drop(member.name, f"claims {member.size} bytes; pack it again")
                        tar.offset = _behind(stream, member)
                    else:
                        self.take(stream, member)
                behind = _what_is_behind(stream, tar.offset)
        except DAMAGED as error:
            what = " ".join(str(error).split())[:80] or type(error).__name__
            return MediaError(f"{self.shard}: damaged or cut off ({what}); download it again")
        return MediaError(f"{self.shard}: {behind}") if behind else None

    def take(self, stream: BinaryIO, member: tarfile.TarInfo) -> None:
        """Note a clip, or read a text; hidden files are passed over, as in a folder."""
        path = PurePosixPath(member.name)
        if member.isdir() or not path.name or path.name.startswith("."):
            return
        key, ending = path.with_suffix("").as_posix(), path.suffix.lower()
        if ending in self.endings:
            self._take_clip(key, ending, member)
        elif ending in (".txt", ".json", ".caption") and member.isfile() and not member.issparse():
            try:
                self._take_text(stream, key, ending, member)
            except InputError as error:
                self.problems.setdefault(key, str(error))

    def _take_text(self, stream: BinaryIO, key: str, ending: str, member: tarfile.TarInfo) -> None:
        """Raises InputError, naming the member."""
        name = f"{shown(PurePosixPath(member.name).name)} beside it"
        if member.size > LONGEST:
            raise InputError(f"{name} has {member.size} bytes, the most is {LONGEST}; shorten it")
        stream.seek(member.offset_data)
        text = decode_text(stream.read(member.size), name)
        if ending != ".json":
            self.texts.setdefault(key, text)
            return
        record = parse_json(text, name, nan_is_none=True, error=InputError)
        self.records.setdefault(key, record if isinstance(record, dict) else {})

    def _take_clip(self, key: str, ending: str, member: tarfile.TarInfo) -> None:
        same = self.pictures if ending in IMAGE_SUFFIXES else self.videos
        if not member.isfile() or member.issparse():
            self._drop(member.name, "a link or no ordinary file in the archive; pack the file itself")
        elif member.size > LARGEST:
            self._drop(member.name, f"has {member.size} bytes, the most is {LARGEST}; cut it")
        elif key in same:
            name = member.name if member.name != same[key].member else f"{member.name} (again)"
            self._drop(name, f"{same[key].member} has the same key and is used; name it otherwise")
        else:
            at = (self.shard, member.offset_data, member.size)
            same[key] = ByteRange(*at, suffix=ending, member=member.name)

    def _drop(self, name: str, reason: str) -> None:
        self.dropped[shown(name)] = reason

    def clips(self) -> Iterator[tuple[str, ByteRange]]:
        """Clips by key: all videos, and the pictures that stand for themselves."""
        yield from self.videos.items()
        yield from (each for each in self.pictures.items() if not self._is_thumbnail(each[0]))

    def _is_thumbnail(self, key: str) -> bool:
        """Whether a picture stands for a video: it has its key, or one that begins so, and no text of its own."""
        own = key in self.texts or key in self.records or key in self.problems
        return key in self.videos or (_first_key(key) in self.videos and not own)

    def caption(self, key: str) -> tuple[Any, str | None]:
        """(caption, why there is none): of the key, else of what webdataset would call the key."""
        for each in dict.fromkeys((key, _first_key(key))):
            caption, why = self._caption_of(each)
            if caption is not None or why:
                return caption, why
        return None, None

    def _caption_of(self, key: str) -> tuple[Any, str | None]:
        """A text and a record that say different things are not guessed between, unless one was asked for."""
        text, asked = self.texts.get(key), self.columns.caption
        if asked == "txt":
            return text, None
        recorded, why = caption_of_record(self.records.get(key), self.columns)
        if asked is not None or text is None or not text.strip():
            return (recorded, why) if recorded is not None or why else (text, self.problems.get(key))
        same = recorded is None or (isinstance(recorded, str) and recorded.split() == text.split())
        if why is None and not same and recorded:
            why = "its .txt and .json differ; choose with task.data.caption_column=txt, or a key of the json"
        return (None, why) if why else (text, None)

    def score(self, key: str) -> Any:
        """The score in the record beside a clip."""
        records = (self.records.get(each, {}) for each in (key, _first_key(key)))
        scores = (row_of(record, "", self.columns)[0].score for record in records)
        return next((score for score in scores if score is not None), None)


def _what_is_behind(stream: BinaryIO, end: int) -> str | None:
    """What ``tarfile`` passes over in silence where it stops: no header, another archive; None for zeros."""
    stream.seek(end)
    if any(stream.read(BLOCK)):
        return f"damaged at byte {end}; what stands behind is lost, download it again"
    while data := stream.read(LONGEST):
        if any(data):
            more = f"holds more behind its end mark at byte {end}"
            return f"{more}; shards that were joined must be packed again"
    return None


def _behind(stream: BinaryIO, member: tarfile.TarInfo) -> int:
    """Where the next header stands behind a member whose size is none: by its plain header, else by looking."""
    stream.seek(member.offset_data - BLOCK)
    size = stream.read(BLOCK)[124:136].strip(b" \0")
    if size.isdigit() and not set(size) & set(b"89"):
        return member.offset_data + -(-int(size, 8) // BLOCK) * BLOCK
    offset = member.offset_data
    stream.seek(offset)
    while (block := stream.read(BLOCK)) and not (block[257:262] == b"ustar" or not any(block)):
        offset += BLOCK
    return offset


def _first_key(key: str) -> str:
    """What webdataset calls the key: all before the first dot of the name."""
    path = PurePosixPath(key)
    return (path.parent / path.name.partition(".")[0]).as_posix()
