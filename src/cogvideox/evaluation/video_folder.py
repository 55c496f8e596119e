"""A folder of videos to score: every file is either read, or named with the reason why it is not.

A prompt is found, in this order, in a table or list of the folder (any that training reads, see ``layouts``), in the
text or record beside a video (``<name>.txt``, ``<name>.json``), or in a name like ``<prompt>-<number>.mp4`` when the
prompts are known: of a suite, or of VBench's JSON in the folder. Links that lead out of the folder are not followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.clip_folders import (
    CaptionSource,
    Columns,
    FileFinder,
    ListedCaptions,
    find_captions,
    find_only_table,
    prompts_alone,
    sidecar_caption,
)
from cogvideox.clip_folders.texts import MOST_RECORD
from cogvideox.clip_folders.video_files import NO_FILE, LeftOut, walk_videos
from cogvideox.errors import ConfigError, InputError, MediaError
from cogvideox.files import read_json
from cogvideox.files.digest import sha256_of
from cogvideox.video import Colour, Video, read_video, sidecar_of

CACHE_BYTES = 512 << 20
LONGEST_PROMPT = 8192
NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{1,6})$", re.DOTALL)


@dataclass(frozen=True)
class ScoredVideo:
    """One video of a folder: its name there, its prompt ('' where none is known), and which sample of it this is.

    ``record``: what stands in ``<name>.json`` beside it.
    """

    name: str
    path: Path
    prompt: str = ""
    number: int = 0
    sha256: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The name without its ending, by which videos of two folders are matched."""
        return self.name.rpartition(".")[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width) of the decoded video."""
        return self.frames, self.height, self.width


@dataclass(frozen=True)
class Refused:
    """A file that is left out of every score, and why. ``kind``: empty, broken, mismatched, unpaired or unsafe."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True)
class VideoFolder(Sequence[Video]):
    """The readable videos of a folder, decoded when they are indexed; the last ones stay in memory.

    ``colour``: how frames of files without colour tags are read, as in ``read_video``.
    """

    folder: Path
    items: tuple[ScoredVideo, ...]
    refused: tuple[Refused, ...] = ()
    colour: Colour = "guess"
    on_progress: Callable[[int, int], Any] | None = field(default=None, compare=False, repr=False)
    """Called with (number, total) whenever a video is read."""
    _cache: OrderedDict[int, Video] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if self.on_progress is not None:
            self.on_progress(index + 1, len(self))
        if index not in self._cache:
            item = self.items[index]
            self._cache[index] = replace(
                read_video(item.path, colour=self.colour), manifest={"file": item.name}
            )
            while len(self._cache) > 1 and sum(v.frames.nbytes for v in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index]

    def __iter__(self) -> Iterator[Video]:
        return (self[index] for index in range(len(self)))

    @property
    def prompts(self) -> list[str]:
        """The prompt of each video; '' where none is known."""
        return [item.prompt for item in self.items]

    @property
    def names(self) -> list[str]:
        """The name of each video in the folder."""
        return [item.name for item in self.items]

    @property
    def without_prompt(self) -> str | None:
        """A message such as '2 of 9 videos have no prompt, such as a.mp4'; None where each has one."""
        bare = [item.name for item in self.items if not item.prompt]
        if not bare:
            return None
        have = "has" if len(bare) == 1 else "have"
        return f"{len(bare)} of {len(self.items)} videos {have} no prompt, such as {bare[0]}"

    def only(self, keep: Callable[[ScoredVideo], Refused | None]) -> VideoFolder:
        """Without the videos for which ``keep`` returns a reason; they join ``refused``."""
        reasons = [keep(item) for item in self.items]
        items = tuple(item for item, reason in zip(self.items, reasons, strict=True) if reason is None)
        return replace(
            self, items=items, refused=(*self.refused, *filter(None, reasons)), _cache=OrderedDict()
        )

    def fingerprint(self) -> str:
        """16 hex digits that change with any file, name, prompt or way of reading colours."""
        content: list[Any] = [[item.name, item.sha256, item.prompt] for item in self.items]
        text = json.dumps(content if self.colour == "guess" else [self.colour, *content])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LazyVideos(Sequence[Video]):
    """``total`` videos, each read or rendered by ``read(index)`` whenever it is indexed."""

    total: int
    read: Callable[[int], Video]

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        return self.read(range(self.total)[index])


def open_videos(
    folder: str | Path,
    prompts: Sequence[str] = (),
    on_item: Callable[[int, int], Any] | None = None,
    only: Collection[str] | None = None,
    colour: Colour = "guess",
) -> VideoFolder:
    """Every video of a folder and its subfolders, in the order of their names, decoded once to know it can be.

    ``prompts``: those a file name may begin with. ``only``: names to read, where the folder holds others too.
    ``colour``: how frames of files without colour tags are read. Raises InputError where there is no such folder or
    no video in it.
    """
    root = Path(folder)
    if "\0" in str(folder) or not root.is_dir():
        raise InputError(f"{str(folder)!r}: no such folder; give a folder of videos")
    files: list[Path] = []
    refused: list[Refused] = []
    for item in walk_videos(root):
        if only is not None and item.path not in only:
            continue
        if isinstance(item, LeftOut):
            kind = "broken" if item.reason == NO_FILE else "unsafe"
            refused.append(Refused(item.path, kind, f"{item.reason}; {item.detail}"))
        else:
            files.append(root / item.path)
    if not files and not refused:
        raise InputError(f"{folder}: holds no video (.mp4, .mov, .mkv, .webm, ...); give a folder of videos")
    prompt_of = _PromptFinder(root, prompts)
    items: list[ScoredVideo] = []
    for done, path in enumerate(files, 1):
        checked = _check_video(path, root, prompt_of, colour)
        if isinstance(checked, ScoredVideo):
            items.append(checked)
        else:
            refused.append(checked)
        if on_item is not None:
            on_item(done, len(files))
    return VideoFolder(root, tuple(items), tuple(refused), colour)


def _check_video(path: Path, root: Path, prompt_of: _PromptFinder, colour: Colour) -> ScoredVideo | Refused:
    """One file, decoded once, or why it cannot be scored."""
    name = path.relative_to(root).as_posix()
    if path.is_symlink():  # the file it leads to would be scored twice
        return Refused(name, "unsafe", "a link; copy the file into the folder")
    try:
        if path.stat().st_size == 0:
            return Refused(name, "empty", "the file has no bytes")
        video = read_video(path, colour=colour)
        record = _record_beside(path, root)
        prompt, number = prompt_of(path, record)
        size = (len(video), video.height, video.width, video.fps)
        return ScoredVideo(name, path, prompt, number, sha256_of(path), *size, record=record)
    except MediaError as error:
        reason = str(error).replace(str(path), "").removeprefix(": ").strip()
        return Refused(name, "broken", reason[:300])
    except OSError as error:
        return Refused(name, "broken", f"cannot be read ({error.strerror})")


class _PromptFinder:
    """The prompt and the number of a video of ``root``: from the folder's table or list, the text beside the video, its
    record, or its name, in this order."""

    def __init__(self, root: Path, prompts: Sequence[str]) -> None:
        self.root, self.listed = root, read_prompts(root)
        known = [*prompts, *prompts_alone(root, Columns())]
        self.by_stem = {_as_name(prompt): prompt for prompt in reversed(known)}

    def __call__(self, path: Path, record: Mapping[str, Any]) -> tuple[str, int]:
        numbered = NUMBERED.match(path.stem)
        number = int(numbered["number"]) if numbered else 0
        name = path.relative_to(self.root).as_posix()
        if self.listed.get(name):
            return self.listed[name], number
        beside, _ = sidecar_caption(path.with_suffix(""), self.root)
        config = record.get("config")
        recorded = isinstance(config, dict) and "prompt" in config
        if isinstance(beside, str) and beside.strip() and not recorded:
            return beside.strip()[:LONGEST_PROMPT], number
        if isinstance(config, dict) and isinstance(config.get("prompt"), str):
            seed = config.get("seed")
            if isinstance(seed, int) and not numbered:
                number = seed
            return config["prompt"][:LONGEST_PROMPT], number
        for stem in filter(None, (numbered and numbered["stem"], path.stem)):
            if stem in self.by_stem:
                return self.by_stem[stem], number
        return "", number


def _as_name(prompt: str) -> str:
    """A prompt as VBench puts it into a file name; what no file name can hold becomes an underscore."""
    return prompt.replace("/", "_").replace("\0", "_")[:180]


def _record_beside(path: Path, root: Path) -> dict[str, Any]:
    """The object in ``<name>.json`` beside a video; {} where there is none that can be read."""
    file = sidecar_of(path)
    if not os.path.lexists(file):
        return {}
    try:
        record = read_json(file, root=root, most=MOST_RECORD, nan_is_none=True, error=InputError)
    except InputError as error:
        warnings.warn(f"the record beside {path.name} is not used: {error}", stacklevel=2)
        return {}
    return record if isinstance(record, dict) else {}


def read_prompts(root: Path) -> dict[str, str]:
    """File name in the folder -> prompt, from the table or list that the folder has, as training reads it.

    One warning names the rows that cannot be used. Raises InputError for a table that cannot be read at all.
    """
    try:
        captions = find_captions(root, CaptionSource()) or find_only_table(root, Columns())
        return {} if captions is None else _prompts_listed(root, captions)
    except ConfigError as error:
        raise InputError(str(error)) from None


def _prompts_listed(root: Path, captions: ListedCaptions) -> dict[str, str]:
    finder = FileFinder(root, captions.base)
    prompts: dict[str, str] = {}
    problems: list[str] = []
    for row in captions.records:
        problem = row.problem
        if problem is None and row.files:
            file, problem = finder.find(row.files)
            name = os.path.relpath(file, root) if file.is_relative_to(root) else row.files[0]
            prompt = row.caption[:LONGEST_PROMPT] if isinstance(row.caption, str) else ""
            if problem is None and prompts.setdefault(name, prompt) != prompt:
                problem = f"{name} has two prompts that differ"
                prompts[name] = ""
        if problem is not None:
            problems.append(f"{row.where}: {problem}")
    if problems and not prompts:
        raise InputError(
            f"{root}: {captions.layout}: no row can be used, such as {problems[0]}; repair or remove it"
        )
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        warnings.warn(f"{captions.layout}: prompts left out: {problems[0]}{more}", stacklevel=2)
    return prompts
