"""A folder of videos as something that can be measured: every file is either read or named with its reason.

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
from collections import Counter, OrderedDict
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
from cogvideox.clip_folders.sidecars import MOST_RECORD
from cogvideox.clip_folders.video_files import NO_FILE, LeftOut, walk_videos
from cogvideox.errors import ConfigError, InputError, MediaError
from cogvideox.files import read_json
from cogvideox.files.digest import sha256_of
from cogvideox.video import Video, read_video, sidecar_of

CACHE_BYTES = 512 << 20
LONGEST_PROMPT = 8192
NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{1,6})$", re.DOTALL)


@dataclass(frozen=True)
class ScoredVideo:
    """One video of a folder: its name there, what was asked for (or ''), and which sample of it this is."""

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


@dataclass(frozen=True)
class Refused:
    """A file that no score stands on, and why. ``kind``: empty, broken, mismatched or unsafe."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True)
class VideoFolder(Sequence[Video]):
    """The readable videos of a folder, decoded when they are asked for; the last ones stay in memory."""

    folder: Path
    items: tuple[ScoredVideo, ...]
    refused: tuple[Refused, ...] = ()
    watch: Callable[[int, int], Any] | None = field(default=None, compare=False, repr=False)
    """Called with (number, of how many) whenever a video is asked for."""
    _cache: OrderedDict[int, Video] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        if self.watch is not None:
            self.watch(place + 1, len(self))
        if place not in self._cache:
            item = self.items[place]
            self._cache[place] = replace(read_video(item.path), manifest={"file": item.name})
            while len(self._cache) > 1 and sum(v.frames.nbytes for v in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(place)
        return self._cache[place]

    def __iter__(self) -> Iterator[Video]:
        return (self[place] for place in range(len(self)))

    @property
    def prompts(self) -> list[str]:
        """What each was asked for; '' where nobody says."""
        return [item.prompt for item in self.items]

    @property
    def names(self) -> list[str]:
        """Their names in the folder."""
        return [item.name for item in self.items]

    @property
    def without_prompt(self) -> str | None:
        """'2 of 9 videos have no prompt, such as a.mp4', for people; None where each has one."""
        bare = [item.name for item in self.items if not item.prompt]
        if not bare:
            return None
        have = "has" if len(bare) == 1 else "have"
        return f"{len(bare)} of {len(self.items)} videos {have} no prompt, such as {bare[0]}"

    def only(self, keep: Callable[[ScoredVideo], Refused | None]) -> VideoFolder:
        """Without those that ``keep`` gives a reason against, which join the refused."""
        reasons = [keep(item) for item in self.items]
        items = tuple(item for item, reason in zip(self.items, reasons, strict=True) if reason is None)
        return replace(
            self, items=items, refused=(*self.refused, *filter(None, reasons)), _cache=OrderedDict()
        )

    def fingerprint(self) -> str:
        """16 digits that change with any file, name or prompt."""
        text = json.dumps([[item.name, item.sha256, item.prompt] for item in self.items])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_clips(
    folder: str | Path,
    prompts: Sequence[str] = (),
    on_item: Callable[[int, int], Any] | None = None,
    only: Collection[str] | None = None,
) -> VideoFolder:
    """Every video of a folder and its subfolders, in the order of their names, decoded once to know it can be.

    ``prompts``: those a name may begin with. ``only``: names to read, where the folder holds others too. Raises
    InputError for a folder that is none or holds no video.
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
    told = read_prompts(root)
    listed = [*prompts, *prompts_alone(root, Columns())]
    known = {_as_name(prompt): prompt for prompt in reversed(listed)}
    items: list[ScoredVideo] = []
    for done, path in enumerate(files, 1):
        found = _read(path, root, told, known)
        (items if isinstance(found, ScoredVideo) else refused).append(found)  # type: ignore[arg-type]
        if on_item is not None:
            on_item(done, len(files))
    return VideoFolder(root, tuple(items), tuple(refused))


def counts(clips: VideoFolder) -> dict[str, int]:
    """How many were read, and how many not, by kind."""
    return {"read": len(clips), **Counter(each.kind for each in clips.refused)}


def _read(path: Path, root: Path, told: dict[str, str], known: dict[str, str]) -> ScoredVideo | Refused:
    name = path.relative_to(root).as_posix()
    if path.is_symlink():  # the file it leads to would be scored twice
        return Refused(name, "unsafe", "a link; copy the file into the folder")
    try:
        if path.stat().st_size == 0:
            return Refused(name, "empty", "the file has no bytes")
        video = read_video(path)
        record = _record_beside(path, root)
        prompt, number = _prompt_of(name, path, root, record, told, known)
        size = {"frames": len(video), "height": video.height, "width": video.width, "fps": video.fps}
        return ScoredVideo(name, path, prompt, number, sha256_of(path), record=record, **size)  # type: ignore[arg-type]
    except MediaError as error:
        reason = str(error).replace(str(path), "").removeprefix(": ").strip()
        return Refused(name, "broken", reason[:300])
    except OSError as error:
        return Refused(name, "broken", f"cannot be read ({error.strerror})")


def _prompt_of(
    name: str,
    path: Path,
    root: Path,
    record: Mapping[str, Any],
    told: dict[str, str],
    known: dict[str, str],
) -> tuple[str, int]:
    numbered = NUMBERED.match(path.stem)
    number = int(numbered["number"]) if numbered else 0
    if told.get(name):
        return told[name], number
    beside, _ = sidecar_caption(path.with_suffix(""), root)
    config = record.get("config")
    if isinstance(beside, str) and beside.strip() and not (isinstance(config, dict) and "prompt" in config):
        return beside.strip()[:LONGEST_PROMPT], number
    if isinstance(config, dict) and isinstance(config.get("prompt"), str):
        seed = config.get("seed")
        return config["prompt"][:LONGEST_PROMPT], seed if isinstance(seed, int) and not numbered else number
    for stem in filter(None, (numbered and numbered["stem"], path.stem)):
        if stem in known:
            return known[stem], number
    return "", number


def _as_name(prompt: str) -> str:
    """A prompt as VBench puts it into a file name; what no file name can hold becomes an underscore."""
    return prompt.replace("/", "_").replace("\0", "_")[:180]


def _record_beside(path: Path, root: Path) -> dict[str, Any]:
    """What stands in ``<name>.json``; {} where there is none that can be read."""
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

    What cannot be used for certain is told in one warning. Raises InputError for one that cannot be read at all.
    """
    try:
        told = find_captions(root, CaptionSource()) or find_only_table(root, Columns())
        return {} if told is None else _prompts_told(root, told)
    except ConfigError as error:
        raise InputError(str(error)) from None


def _prompts_told(root: Path, told: ListedCaptions) -> dict[str, str]:
    places = FileFinder(root, told.base)
    found: dict[str, str] = {}
    odd: list[str] = []
    for row in told.records:
        problem = row.problem
        if problem is None and row.files:
            file, problem = places.find(row.files)
            name = os.path.relpath(file, root) if file.is_relative_to(root) else row.files[0]
            prompt = row.caption if isinstance(row.caption, str) else ""
            prompt = prompt[:LONGEST_PROMPT]
            if problem is None and found.setdefault(name, prompt) != prompt:
                problem = f"{name} has two prompts that differ"
                found[name] = ""
        if problem is not None:
            odd.append(f"{row.where}: {problem}")
    if odd and not found:
        raise InputError(f"{root}: {told.layout}: no row can be used, such as {odd[0]}; repair or remove it")
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        warnings.warn(f"{told.layout}: prompts left out: {odd[0]}{more}", stacklevel=2)
    return found
