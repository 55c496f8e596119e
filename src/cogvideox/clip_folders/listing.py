"""Which clips a folder holds and what their captions are: one reading of every layout in public use.

| layout | recognised by | caption |
|---|---|---|
| table | metadata.jsonl, .csv, .tsv, .json or .parquet (also in train/, data/) | column caption, text, prompt, ... |
| lines | videos.txt beside prompts.txt, prompt.txt, captions.txt or caption.txt | the same line |
| labels | videos/ beside labels/ | labels/<name>.txt |
| shards | *.tar (webdataset) or *.parquet with bytes | <key>.txt, or caption in <key>.json; column |
| stems | clips and images anywhere below | <name>.txt, .caption or .json beside each |
| table | the only csv, tsv, json, jsonl or parquet that names clips and captions | as above |

Nothing is decoded here, and no item disappears in silence: what cannot be used stands in ``dropped`` with its reason.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideox.clip_folders import (
    CaptionSource,
    FileFinder,
    ListedCaptions,
    candidate_files,
    find_captions,
    find_only_table,
    sidecar_caption,
)
from cogvideox.clip_folders.archives import ByteRange, clips_in_table, holds_clips
from cogvideox.clip_folders.tars import members_of
from cogvideox.errors import ConfigError, MediaError
from cogvideox.files import files_below, inside, short, shown
from cogvideox.files.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MEDIA = VIDEO_SUFFIXES | IMAGE_SUFFIXES
NO_CAPTION = "no caption that can be read; write one, in UTF-8"


class WithoutCaptionsError(ConfigError):
    """A folder with clips of which none has a caption; the message says what was seen and how to point at captions."""


@dataclass(frozen=True)
class ListedClip:
    """One clip: its name within the data set, its caption, and where its bytes are."""

    name: str
    caption: str
    location: ByteRange
    score: float | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is a still picture, by the ending of its name."""
        return PurePosixPath(self.name).suffix.lower() in IMAGE_SUFFIXES


@dataclass
class Listing:
    """What a folder holds; ``dropped`` has a reason for each name that cannot be used, ``notes`` what else to know.

    ``default`` is the caption of clips that have none; without it they are dropped.
    """

    root: Path
    layout: str
    entries: list[ListedClip] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    default: str | None = None
    notes: list[str] = field(default_factory=list)
    captions_seen: int = 0
    _seen: dict[str, tuple[ListedClip, str]] = field(
        default_factory=dict, repr=False
    )  # with the line, by name
    _unlike: set[str] = field(default_factory=set, repr=False)  # names with two captions
    _times: Counter[str] = field(default_factory=Counter, repr=False)  # how often a name was dropped

    @cached_property
    def paths(self) -> _Paths:
        """Names of files in the folder."""
        return _Paths(self.root)

    def add(
        self,
        name: str,
        caption: Any,
        location: ByteRange,
        score: Any = None,
        *,
        where: str = "",
        problem: str | None = None,
    ) -> None:
        """Take an item, or note why not. where: the table and line that name it; problem: why it cannot be used."""
        self.captions_seen += caption is not None
        if problem is None and caption is not None and not isinstance(caption, str):
            problem = f"the caption is {type(caption).__name__}, not text; write words"
        if self.default is not None and problem is None and not (caption or "").strip():
            caption = self.default
        reason = problem or _unfit(name, caption)
        if reason:
            self.drop(shown(name), f"{where}: {reason}" if where else reason)
        elif name in self._seen:
            self._again(name, " ".join(caption.split()), where)
        else:
            entry = ListedClip(name, " ".join(caption.split()), location, _number(score))
            self._seen[name] = entry, where
            self.entries.append(entry)

    def add_file(
        self, file: Path, caption: Any, score: Any = None, *, where: str = "", problem: str | None = None
    ) -> None:
        """Take a file of the folder, or note why not."""
        name, astray = self.paths.of(file)
        self.add(name, caption, ByteRange(file), score, where=where, problem=problem or astray)

    def _again(self, name: str, caption: str, where: str) -> None:
        """A clip that is listed twice: with one caption it is taken once, with two it is not known which is right."""
        first, line = self._seen[name]
        if first.caption == caption or name in self._unlike:
            self.drop(f"{name} (again)", "listed twice; the first is used")
            return
        self._unlike.add(name)
        lines = " and ".join(filter(None, (line, where)))
        self.drop(name, f"has two captions that differ{f', {lines}' if lines else ''}; keep one")

    def drop(self, name: str, reason: str) -> None:
        """Note why an item is not taken; a name that was dropped before gets a number."""
        self._times[name] += 1
        times = self._times[name]
        self.dropped[name if times == 1 else f"{name} ({times})"] = reason

    def finish(self) -> None:
        """Bring the entries into order, without those whose caption is not certain."""
        kept = (entry for entry in self.entries if entry.name not in self._unlike)
        self.entries = sorted(kept, key=lambda entry: entry.name)
        self._seen.clear()


def list_clips(
    folder: str | Path, default: str | None = None, source: CaptionSource | None = None
) -> Listing:
    """Read a folder's layout. default: the caption of clips that have none. source: where captions are, if not found.

    Raises ConfigError when it is no folder, holds nothing, contradicts itself, or no clip of it has a caption.
    """
    root = Path(folder)
    if "\0" in str(folder) or not root.is_dir():
        raise ConfigError(f"{shown(str(root))!r}: not a folder; give one that holds clips and captions")
    source = source or CaptionSource()
    try:
        listing = _read(root, default, source)
    except ConfigError as error:
        if str(root) in str(error):
            raise
        raise ConfigError(f"{root}: {error}") from None
    listing.finish()
    if not (listing.entries or listing.dropped):
        raise ConfigError(
            f"{root}: holds no clips in a known layout; put clips with a .txt beside each, or write metadata.jsonl"
        )
    if not listing.entries and not listing.captions_seen:
        _refuse_without_captions(listing, source)
    return listing


def _read(root: Path, default: str | None, source: CaptionSource) -> Listing:
    captions = find_captions(root, source)
    if captions is not None:
        return _from_captions(root, captions, default, source)
    if (root / "videos").is_dir() and (root / "labels").is_dir():
        listing = Listing(root, "videos/ and labels/", default=default)
        return _from_texts(listing, root / "videos", root / "labels", source)
    walked: dict[str, str] = {}
    shards = _shards(root, walked)
    if shards:
        return _from_shards(root, shards, default, source)
    listing = Listing(root, "clips with .txt beside them", default=default)
    _from_texts(listing, root, root, source)
    listing.notes += [f"{name}: {reason}" for name, reason in walked.items()]
    if listing.captions_seen:
        return listing
    captions = find_only_table(root, source.columns, default is not None)
    return listing if captions is None else _from_captions(root, captions, default, source)


def _from_captions(
    root: Path, captions: ListedCaptions, default: str | None, source: CaptionSource
) -> Listing:
    listing = Listing(root, captions.layout, default=default)
    finder = FileFinder(root, captions.base)
    for row in captions.records:
        if row.problem and not row.files:
            listing.drop(row.where, row.problem)
            continue
        if not row.files:
            wanted = ", ".join(source.columns.files[:9])
            listing.drop(row.where, f"names no file; use one of {wanted}")
            continue
        file, problem = finder.find(row.files)
        caption = row.caption
        if caption is None and row.problem is None and inside(file, root):
            caption, why = sidecar_caption(file.with_suffix(""), root, source.columns)
            problem = problem or why
        listing.add_file(file, caption, row.score, where=row.where, problem=row.problem or problem)
    listing.notes += captions.notes
    return listing


def _from_shards(root: Path, shards: list[Path], default: str | None, source: CaptionSource) -> Listing:
    listing = Listing(root, "shards", default=default)
    for shard in shards:
        name, problem = listing.paths.of(shard)
        if problem:
            listing.drop(shown(name), problem)
            continue
        lost: dict[str, str] = {}
        try:
            entries = members_of if shard.suffix.lower() == ".tar" else clips_in_table
            for entry in entries(shard, MEDIA, lost, source.columns):
                key = f"{name}/{entry.key}"
                listing.add(key, entry.caption, entry.location, entry.score, problem=entry.problem)
        except MediaError as error:
            listing.drop(name, str(error))
        for key, reason in lost.items():
            listing.drop(f"{name}/{shown(key)}", reason)
    return listing


def _from_texts(listing: Listing, videos: Path, texts: Path, source: CaptionSource) -> Listing:
    """Every clip below ``videos`` with the text of the same name below ``texts``."""
    for file in _media(videos, listing):
        stem = texts / file.relative_to(videos).with_suffix("")
        _add_with_text(listing, file, stem, source)
    return listing


def _add_with_text(listing: Listing, file: Path, stem: Path, source: CaptionSource) -> None:
    """A clip whose caption stands in a file of its own; one that cannot be read is not passed over in silence."""
    caption, problem = sidecar_caption(stem, listing.root, source.columns)
    listing.captions_seen += problem is not None
    if problem and listing.default is not None:
        listing.notes.append(f"{shown(file.name)}: the default caption is used: {problem}")
        problem = None
    listing.add_file(file, caption, problem=problem)


def _shards(root: Path, walked: dict[str, str]) -> list[Path]:
    """Tars; else tables of bytes: beside tars, tables describe."""
    tars = files_below(root, {".tar"}, walked)
    return tars or [file for file in files_below(root, {".parquet"}) if holds_clips(file)]


def _media(folder: Path, listing: Listing) -> list[Path]:
    if not inside(folder, listing.root):
        raise ConfigError(f"{folder}: leads out of {listing.root}; move the folder itself there")
    skipped: dict[str, str] = {}
    files = files_below(folder, MEDIA, skipped)
    listing.notes += [f"{name}: {reason}" for name, reason in skipped.items()]
    return files


def _refuse_without_captions(listing: Listing, source: CaptionSource) -> None:
    """Raises WithoutCaptionsError when clips are there, none has a caption, and nothing else is wrong with them."""
    without = [name for name, reason in listing.dropped.items() if reason.endswith(NO_CAPTION)]
    if not without:
        return
    if (listing.root / "clips.parquet").is_file() and (listing.root / "dropped.jsonl").is_file():
        raise WithoutCaptionsError(
            f"{listing.root}: a curated folder, and none of its {len(without)} clips has a caption yet; run "
            f"`cogvideox caption {listing.root}` (--ask names the model), or give one caption for all: "
            "task.data.caption= (data doctor: --caption)"
        )
    seen = candidate_files(listing.root, source.columns)
    candidates = (
        f"seen: {'; '.join(seen[:8])}" if seen else "no text, csv or json file that could hold them was seen"
    )
    more = f" and {len(seen) - 8} more" if len(seen) > 8 else ""
    raise WithoutCaptionsError(
        f"{listing.root}: none of {len(without)} clips has a caption, such as {short(without[0])}; {candidates}{more}. "
        "Write a .txt beside each clip, or point at the file that holds the captions: task.data.captions=FILE, with "
        "task.data.caption_column= and task.data.file_column= where columns have other names (data doctor: --captions, "
        "--caption-column, --file-column); task.data.caption= is one caption for all"
    )


def unused(listing: Listing) -> list[str]:
    """Videos and images below the folder that are neither used nor named as dropped: beside a table or an archive."""
    known = {entry.name for entry in listing.entries} | listing.dropped.keys()
    names = (shown(listing.paths.of(file)[0]) for file in files_below(listing.root, MEDIA))
    return [name for name in names if name not in known]


class _Paths:
    """Names of files within a folder, with links followed; folders are looked at once."""

    def __init__(self, root: Path) -> None:
        self.root, self.real = str(root), os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def of(self, file: Path) -> tuple[str, str | None]:
        """(the name relative to the folder, why it cannot be read there)."""
        try:
            folder, base = os.path.split(file)
            real = self._folders.get(folder) or self._folders.setdefault(folder, os.path.realpath(folder))
            path = os.path.join(real, base)
            if base in ("..", ".", "") or os.path.islink(path):
                path = os.path.realpath(path)
            if not (path == self.real or path.startswith(os.path.join(self.real, ""))):
                below = str(file).startswith(os.path.join(self.root, ""))
                name = os.path.relpath(file, self.root) if below else str(file)  # as the table has it
                return name, "leads out of the folder; copy it in"
            start = len(os.path.join(self.real, ""))
            name = os.path.relpath(path, self.real) if ".." in path else path[start:]
            whole = os.path.isfile(path)
        except (OSError, ValueError) as error:  # a link to itself, a name no file can have
            why = " ".join(str(error).split())[:60]
            return shown(str(file)), f"not a path that can be followed ({why}); check it"
        if not whole:
            return name, "there is no such file, or it is a link to none or a pipe; check the path"
        return name, None


def _unfit(name: str, caption: str | None) -> str | None:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in MEDIA:
        return f"not a video or image by its ending {suffix!r}"
    if shown(name) != name:
        return "its name is not UTF-8; rename it"
    if caption is None:
        return NO_CAPTION
    if not caption.strip():
        return "the caption is empty; write one"
    if "\x00" in caption:
        return "the caption holds a NUL byte; remove it"
    if shown(caption) != caption:
        return "the caption holds half a character (a lone surrogate); write it again"
    return None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
