"""Which clips a folder holds and what their captions are: one reading of every layout in public use.

| layout | recognised by | caption |
|---|---|---|
| table | metadata.jsonl, .csv or .parquet (also in train/); as HF's ``videofolder`` | column caption, text or prompt |
| lines | videos.txt beside prompts.txt, line by line | the same line of prompts.txt |
| labels | videos/ beside labels/ | labels/<name>.txt |
| shards | *.tar (webdataset) or *.parquet with bytes | <key>.txt, or caption in <key>.json; column |
| stems | clips and images anywhere below | <name>.txt beside each |

Nothing is decoded here, and no item disappears in silence: what cannot be used stands in ``dropped`` with its reason.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideox.curation.listing import SUFFIXES
from cogvideox.data.archives import PICTURES, Part, parquet_table, parts_of
from cogvideox.errors import ConfigError, MediaError
from cogvideox.lines import lines_of

VIDEOS = frozenset([".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".gif", ".m4v"])
IMAGES = PICTURES
FILE_COLUMNS = ("file_name", "video", "path", "video_path", "file", "image")
CAPTION_COLUMNS = ("caption", "text", "prompt")
SCORE_COLUMNS = ("score", "aesthetic", "aes", "aesthetic_score")


@dataclass(frozen=True)
class Entry:
    """One clip: its name within the data set, its caption, and where its bytes are."""

    name: str
    caption: str
    part: Part
    score: float | None = None

    @property
    def is_image(self) -> bool:
        return PurePosixPath(self.name).suffix.lower() in IMAGES


@dataclass
class Listing:
    """What a folder holds; ``dropped`` has a reason for each name that cannot be used.

    ``default`` is the caption of clips that have none; without it they are dropped.
    """

    root: Path
    layout: str
    entries: list[Entry] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    default: str | None = None

    def add(self, name: str, caption: str | None, part: Part | Path, score: Any = None) -> None:
        """Take an item, or note why not."""
        if caption is not None and not isinstance(caption, str):
            self.dropped[name] = f"the caption is {type(caption).__name__}, not text; write words"
            return
        if self.default is not None and not (caption or "").strip():
            caption = self.default
        reason = self._reason(name, caption, part)
        if reason:
            self.dropped[name] = reason
            return
        part = part if isinstance(part, Part) else Part(part)
        self.entries.append(Entry(name, " ".join(caption.split()), part, _number(score)))

    def _reason(self, name: str, caption: str | None, part: Part | Path) -> str | None:
        if PurePosixPath(name).suffix.lower() not in VIDEOS | IMAGES:
            return f"not a video or image by its ending {PurePosixPath(name).suffix!r}"
        if isinstance(part, Path):
            try:
                inside = part.resolve().is_relative_to(self.root.resolve())
                whole = part.is_file()
            except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name no file can have
                return f"not a path that can be followed ({' '.join(str(error).split())[:60]}); check it"
            if not inside:
                return "leads out of the folder; copy it in"
            if not whole:
                return "there is no such file, or it is a link to none or a pipe; check the path"
        if caption is None:
            return "no caption that can be read; write one, in UTF-8"
        if not caption.strip():
            return "the caption is empty; write one"
        if "\x00" in caption:
            return "the caption holds a NUL byte; remove it"
        return None


def list_clips(folder: str | Path, default: str | None = None) -> Listing:
    """Read a folder's layout; ``default`` is the caption of clips that have none.

    Raises ConfigError when it is no folder, holds nothing, or contradicts itself.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{root}: not a folder; give one that holds clips and captions")
    found = next((reader(root, default) for matches, reader in LAYOUTS if matches(root)), None)
    if found is None or not (found.entries or found.dropped):
        raise ConfigError(
            f"{root}: holds no clips in a known layout; put clips with a .txt beside each, or write metadata.jsonl"
        )
    seen: set[str] = set()
    unique = []
    for entry in found.entries:
        if entry.name in seen:
            found.dropped[f"{entry.name} (again)"] = "listed twice; the first is used"
        else:
            unique.append(entry)
        seen.add(entry.name)
    found.entries = sorted(unique, key=lambda entry: entry.name)
    return found


def _tables(root: Path) -> list[Path]:
    places = [root, *(root / name for name in ("train", "data") if (root / name).is_dir())]
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return [place / name for place in places for name in names if (place / name).is_file()][:1]


def _from_table(root: Path, default: str | None) -> Listing:
    table = _tables(root)[0]
    listing = Listing(root, f"table {table.relative_to(root)}", default=default)
    for number, row in enumerate(_rows(table), 1):
        file = _first(row, FILE_COLUMNS)
        if file is None:
            listing.dropped[f"{table.name} line {number}"] = (
                f"names no file; use one of {', '.join(FILE_COLUMNS)}"
            )
            continue
        name = _name(root, table.parent / str(file))
        listing.add(name, _first(row, CAPTION_COLUMNS), table.parent / str(file), _first(row, SCORE_COLUMNS))
    return listing


def _rows(table: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table; one that cannot be read is an empty row, so that it is named and counted."""
    if table.suffix == ".parquet":
        yield from parquet_table(table)
        return
    with open(table, encoding="utf-8-sig", errors="replace", newline="") as stream:
        if table.suffix == ".csv":
            csv.field_size_limit(LONGEST_FIELD)
            try:
                yield from csv.DictReader(stream)
            except csv.Error as error:
                raise ConfigError(f"{table}: cannot be read as CSV ({error}); repair it") from None
            return
        for line in filter(str.strip, stream):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) else {}


def _from_lines(root: Path, default: str | None) -> Listing:
    listing = Listing(root, "lines of videos.txt and prompts.txt", default=default)
    try:
        names, captions = (lines_of((root / file).read_text(encoding="utf-8-sig")) for file in LINES)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{root}: {' or '.join(LINES)} is not UTF-8 ({error.reason}); convert it") from None
    if len(names) != len(captions):
        raise ConfigError(
            f"{root}: videos.txt has {len(names)} lines, prompts.txt {len(captions)}; they must be as many"
        )
    for name, caption in zip(names, captions, strict=True):
        if name.strip():
            place = root / name.strip()
            listing.add(_name(root, place), caption, place)
    return listing


def _from_labels(root: Path, default: str | None) -> Listing:
    listing = Listing(root, "videos/ and labels/", default=default)
    for file in _media(root / "videos"):
        label = root / "labels" / file.relative_to(root / "videos").with_suffix(".txt")
        listing.add(_name(root, file), _text(label), file)
    return listing


def _from_shards(root: Path, default: str | None) -> Listing:
    listing = Listing(root, "shards", default=default)
    for shard in sorted(root.rglob("*.tar")) or sorted(
        root.rglob("*.parquet")
    ):  # beside tars, tables describe
        name = _name(root, shard)
        lost: dict[str, str] = {}
        try:
            for key, caption, part, score in parts_of(shard, VIDEOS | IMAGES, lost):
                listing.add(f"{name}/{key}", caption, part, score)
        except MediaError as error:
            listing.dropped[name] = str(error)
        listing.dropped |= {f"{name}/{key}": reason for key, reason in lost.items()}
    return listing


def _from_stems(root: Path, default: str | None) -> Listing:
    listing = Listing(root, "clips with .txt beside them", default=default)
    for file in _media(root):
        listing.add(_name(root, file), _text(file.with_suffix(".txt")), file)
    return listing


LONGEST_FIELD = 2**20  # characters of a cell
LINES = ("videos.txt", "prompts.txt")
LAYOUTS = (
    (lambda root: bool(_tables(root)), _from_table),
    (lambda root: all((root / name).is_file() for name in LINES), _from_lines),
    (lambda root: (root / "videos").is_dir() and (root / "labels").is_dir(), _from_labels),
    (lambda root: any(root.rglob("*.tar")) or any(root.rglob("*.parquet")), _from_shards),
    (lambda root: True, _from_stems),
)


def _media(folder: Path) -> list[Path]:
    return _files(folder, VIDEOS | IMAGES)


def _files(folder: Path, suffixes: Set[str]) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes and not file.is_dir())
    return sorted(
        file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def unused(listing: Listing) -> list[str]:
    """Films and pictures below the folder that are neither used nor named as dropped: beside a table or an archive."""
    known = {entry.name for entry in listing.entries} | listing.dropped.keys()
    files = _files(listing.root, SUFFIXES | VIDEOS | IMAGES)
    return [name for name in (_name(listing.root, file) for file in files) if name not in known]


def _name(root: Path, file: Path) -> str:
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except (ValueError, OSError, RuntimeError):
        return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _text(file: Path) -> str | None:
    """A caption file, or None when there is none that can be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    return next((row[name] for name in columns if row.get(name) not in (None, "")), None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
