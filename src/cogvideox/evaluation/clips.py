"""A folder of videos as something that can be measured: every file is either read or named with its reason.

A prompt is found, in this order, in ``metadata.jsonl`` or ``metadata.csv`` (columns file_name and text or
prompt), in the record beside a video (``<name>.json``), or in a name like ``<prompt>-<number>.mp4`` when the
prompts are known. Links and files that lead out of the folder are not followed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.errors import InputError, MediaError
from cogvideox.lines import lines_of
from cogvideox.manifest import sha256_of
from cogvideox.video import Video, read_video, sidecar_of

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
CACHE_BYTES = 512 << 20
MOST_RECORD = 4 << 20  # bytes of a record beside a video
LONGEST_PROMPT = 8192
NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{1,6})$", re.DOTALL)


@dataclass(frozen=True)
class Clip:
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
class Clips(Sequence[Video]):
    """The readable videos of a folder, decoded when they are asked for; the last ones stay in memory."""

    folder: Path
    items: tuple[Clip, ...]
    refused: tuple[Refused, ...] = ()
    _cache: OrderedDict[int, Video] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
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

    def only(self, keep: Callable[[Clip], Refused | None]) -> Clips:
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
) -> Clips:
    """Every video of a folder and its subfolders, in the order of their names, decoded once to know it can be.

    ``prompts``: those a name may begin with. ``only``: names to read, where the folder holds others too. Raises
    InputError for a folder that is none or holds no video.
    """
    root = Path(folder)
    if "\0" in str(folder) or not root.is_dir():
        raise InputError(f"{str(folder)!r}: no such folder; give a folder of videos")
    files = [
        path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and _is_shown(path, root)
    ]
    files = [path for path in files if only is None or path.relative_to(root).as_posix() in only]
    if not files:
        raise InputError(
            f"{folder}: holds no video ({', '.join(SUFFIXES[:6])}, ...); give a folder of videos"
        )
    told = read_prompts(root)
    known = {_as_name(prompt): prompt for prompt in prompts}
    items: list[Clip] = []
    refused: list[Refused] = []
    for done, path in enumerate(files, 1):
        found = _read(path, root, told, known)
        (items if isinstance(found, Clip) else refused).append(found)  # type: ignore[arg-type]
        if on_item is not None:
            on_item(done, len(files))
    return Clips(root, tuple(items), tuple(refused))


def counts(clips: Clips) -> dict[str, int]:
    """How many were read, and how many not, by kind."""
    return {"read": len(clips), **Counter(each.kind for each in clips.refused)}


def _is_shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts) and (
        path.is_symlink() or not path.is_dir()
    )


def _read(path: Path, root: Path, told: dict[str, str], known: dict[str, str]) -> Clip | Refused:
    name = path.relative_to(root).as_posix()
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        return Refused(name, "unsafe", "a link; copy the file into the folder")
    try:
        if path.is_file() and path.stat().st_size == 0:
            return Refused(name, "empty", "the file has no bytes")
        video = read_video(path)
        record = _record_beside(path)
        prompt, number = _prompt_of(name, path, record, told, known)
        size = {"frames": len(video), "height": video.height, "width": video.width, "fps": video.fps}
        return Clip(name, path, prompt, number, sha256_of(path), record=record, **size)  # type: ignore[arg-type]
    except MediaError as error:
        reason = str(error).replace(str(path), "").removeprefix(": ").strip()
        return Refused(name, "broken", reason[:300])
    except OSError as error:
        return Refused(name, "broken", f"cannot be read ({error.strerror})")


def _prompt_of(
    name: str, path: Path, record: Mapping[str, Any], told: dict[str, str], known: dict[str, str]
) -> tuple[str, int]:
    numbered = NUMBERED.match(path.stem)
    number = int(numbered["number"]) if numbered else 0
    if name in told or path.name in told:
        return told.get(name, told.get(path.name, "")), number
    config = record.get("config")
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


def _record_beside(path: Path) -> dict[str, Any]:
    """What stands in ``<name>.json``; {} where there is none that can be read."""
    file = sidecar_of(path)
    try:
        if file.is_symlink() or file.stat().st_size > MOST_RECORD:
            return {}
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_prompts(root: Path) -> dict[str, str]:
    """file_name -> text, from metadata.jsonl or metadata.csv. Raises InputError for one that cannot be read."""
    for name, rows in (("metadata.jsonl", _json_rows), ("metadata.csv", _csv_rows)):
        file = root / name
        if file.is_file() and not file.is_symlink():
            try:
                found = list(rows(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, RecursionError, csv.Error) as error:
                raise InputError(f"{file}: not readable ({type(error).__name__}); write it again") from None
            return {
                str(row["file_name"]): str(row.get("text") or row.get("prompt") or "")[:LONGEST_PROMPT]
                for row in found
                if isinstance(row, dict) and "file_name" in row
            }
    return {}


def _json_rows(text: str) -> Iterator[Any]:
    return (json.loads(line) for line in lines_of(text) if line.strip())


def _csv_rows(text: str) -> Iterator[Any]:
    return iter(csv.DictReader(io.StringIO(text, newline="")))
