"""A study: videos of several models for the same prompts, under names that say nothing, and who sees what when.

Everything is coded again alike (``blind``), so that neither names nor files tell the models apart. What a rater is
asked next is a signed assignment: nobody can rate what was not given to them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from cogvideox.errors import ConfigError, InputError, OutputError
from cogvideox.evaluation.video_folder import Refused, VideoFolder, open_videos
from cogvideox.files.atomic import atomic_folder, write_text
from cogvideox.files.paths import lies_in
from cogvideox.files.structured import read_json
from cogvideox.rating.anonymize import PRIVATE, common_fps, write_anonymized
from cogvideox.rating.grades import ASPECTS, GRADES, MOST_TOTAL, Rating
from cogvideox.rating.ledger import RatingEntry
from cogvideox.rating.pairwise import Battle

FILE, MEDIA, LEDGER = "study.json", "media", "ratings.sqlite"
LONGEST_NOTE = 2000
MOST_RECORD = 256 << 20  # bytes of study.json
Mode = Literal["grades", "pairs"]


@dataclass(frozen=True)
class Unit:
    """What one rating is about: a prompt and one video (grades) or two (pairs), by model and by random media name."""

    id: str
    item: str
    prompt: str
    models: tuple[str, ...]
    media: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Videos of several models to rate blind. Every rater gets ``units`` in their own order. ``remarks``: what was
    changed about the videos, and what could tell models apart all the same."""

    mode: Mode
    secret: str
    units: tuple[Unit, ...]
    refused: tuple[Refused, ...] = ()
    remarks: tuple[str, ...] = ()

    def rater(self, name: str) -> str:
        """The id of a rater's name; names themselves are not kept. Raises InputError."""
        name = " ".join(name.split()).lower()
        if not 1 <= len(name) <= 200:
            raise InputError("name: write 1 to 200 characters")
        return self._sign("rater", name)[:16]

    def order(self, rater: str) -> list[Unit]:
        """All units, shuffled for this rater, the same every time."""
        units = list(self.units)
        random.Random(self._sign("order", rater)).shuffle(units)
        return units

    def swapped(self, rater: str, unit: Unit) -> bool:
        """Whether this rater sees the second video of a pair on the left."""
        return int(self._sign("side", f"{rater}/{unit.id}")[:2], 16) % 2 == 1

    def media_for(self, rater: str, unit: Unit) -> tuple[str, ...]:
        """The videos in the order they are shown."""
        return unit.media[::-1] if self.swapped(rater, unit) and len(unit.media) == 2 else unit.media

    def assignment(self, rater: str, unit: Unit) -> str:
        """The signed token that the page sends back with a rating."""
        return f"{unit.id}.{rater}.{self._sign('assignment', f'{unit.id}.{rater}')[:32]}"

    def assigned(self, assignment: str) -> tuple[str, Unit]:
        """(rater, unit) of an assignment that was given out. Raises InputError."""
        unit_id, _, rest = assignment.partition(".")
        rater, _, signature = rest.partition(".")
        right = self._sign("assignment", f"{unit_id}.{rater}")[:32]
        unit = {unit.id: unit for unit in self.units}.get(unit_id)
        if unit is None or not hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")):
            raise InputError("assignment: not one that was given out; load the page again")
        return rater, unit

    def _sign(self, purpose: str, text: str) -> str:
        key = bytes.fromhex(self.secret)
        return hmac.new(key, f"{purpose}/{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def entry(self, assignment: str, answer: Mapping[str, Any]) -> RatingEntry:
        """The rating that the page sent, checked. Raises InputError."""
        rater, unit = self.assigned(assignment)
        note = str(answer.get("note", ""))[:LONGEST_NOTE]
        if self.mode == "pairs":
            choice = answer.get("choice")
            if choice not in ("left", "right", "tie"):
                raise InputError(f"choice {str(choice)[:40]!r}: left, right or tie")
            side = {"left": 0, "right": 1}.get(str(choice))
            if side is not None and self.swapped(rater, unit):
                side = 1 - side
            winner = "tie" if side is None else "ab"[side]
            return RatingEntry(rater, unit.id, {"winner": winner, "note": note})
        aspects, total = answer.get("aspects"), answer.get("total")
        if not isinstance(aspects, dict) or set(aspects) != set(ASPECTS):
            raise InputError(f"aspects: grade each of {', '.join(ASPECTS)}")
        if any(isinstance(v, bool) or v not in GRADES for v in aspects.values()):
            raise InputError("aspects: each grade is 0, 0.5 or 1")
        if isinstance(total, bool) or not isinstance(total, int | float) or not 0 <= total <= MOST_TOTAL:
            raise InputError(f"total: a number from 0 to {MOST_TOTAL:g}")
        grades = {name: float(value) for name, value in aspects.items()}
        return RatingEntry(rater, unit.id, {"aspects": grades, "total": float(total), "note": note})

    def ratings(self, entries: Sequence[RatingEntry]) -> list[Rating]:
        """Entries of a study of grades, with the models' names."""
        return [
            Rating(entry.rater, unit.models[0], unit.item, entry.answer["aspects"], entry.answer["total"])
            for entry, unit in self._known(entries)
        ]

    def battles(self, entries: Sequence[RatingEntry]) -> list[Battle]:
        """Entries of a study of pairs, with the models' names."""
        return [
            Battle(entry.rater, unit.item, unit.models[0], unit.models[1], entry.answer["winner"])
            for entry, unit in self._known(entries)
        ]

    def _known(self, entries: Sequence[RatingEntry]) -> Iterator[tuple[RatingEntry, Unit]]:
        units = {unit.id: unit for unit in self.units}
        return ((entry, units[entry.unit]) for entry in entries if entry.unit in units)

    def save(self, folder: Path) -> None:
        """Write study.json; it holds the secret, so only its owner may read it."""
        record = {name: getattr(self, name) for name in ("mode", "secret", "remarks")}
        record["units"] = [vars(unit) for unit in self.units]
        record["refused"] = [vars(each) for each in self.refused]
        write_text(folder / FILE, json.dumps(record, indent=2) + "\n", PRIVATE)

    @classmethod
    def read(cls, folder: Path) -> Study:
        """From study.json. Raises InputError."""
        file = folder / FILE
        try:
            record = read_json(file, most=MOST_RECORD, error=InputError)
            units = tuple(
                Unit(**{**unit, "models": tuple(unit["models"]), "media": tuple(unit["media"])})
                for unit in record["units"]
            )
            refused = tuple(Refused(**r) for r in record["refused"])
            return cls(record["mode"], record["secret"], units, refused, tuple(record.get("remarks", ())))
        except (InputError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(f"{file}: no study ({reason}); make one with rate serve") from None


def make_study(
    folders: Mapping[str, Path],
    out: Path,
    mode: Mode = "grades",
    on_item: Callable[[int, int], Any] | None = None,
) -> Study:
    """Prepare a study in ``out``; one that is there already is opened, and must be of the same videos and mode.

    ``folders``: model -> its videos. Raises InputError, ConfigError.
    """
    for model, folder in folders.items():
        if lies_in(out, folder):
            raise ConfigError(
                f"--out {out}: lies inside the videos of {model} ({folder}), so its media would count as videos next "
                "time; choose another --out"
            )
    clips = {model: open_videos(folder) for model, folder in folders.items()}
    refused = tuple(
        Refused(f"{m}/{r.name}", r.kind, r.why) for m, each in clips.items() for r in each.refused
    )
    shared = _items(clips, mode)
    if (out / FILE).exists():
        return _opened(Study.read(out), mode, {(m, i) for i, by in shared.items() for m in by})
    _check_unused(out)
    secret = secrets.token_hex(32)
    media, changes = _write_media(clips, shared, secret, out / MEDIA, on_item)
    units = []
    for item, by_model in shared.items():
        prompt = next(filter(None, (clips[m].items[i].prompt for m, i in by_model.items())), "")
        groups = [(m,) for m in by_model] if mode == "grades" else list(combinations(sorted(by_model), 2))
        for models in groups:
            files = tuple(media[model, item] for model in models)
            units.append(Unit(_random_name(secret, "/".join(files))[:16], item, prompt, tuple(models), files))
    study = Study(mode, secret, tuple(units), refused, (*_giveaways(clips, shared), *changes))
    if (out / FILE).exists():
        raise ConfigError(
            f"{out}: another process has made a study there meanwhile; serve that one, or choose another"
        )
    study.save(out)
    return study


def _check_unused(out: Path) -> None:
    """Raises ConfigError where a study stood, or was begun, whose ``study.json`` is not there."""
    if (out / LEDGER).exists():
        raise ConfigError(
            f"{out}: holds ratings of a study whose {FILE} is gone; put it back, or choose another --out"
        )
    if (out / MEDIA).exists():
        raise ConfigError(
            f"{out / MEDIA}: is of a study that was never finished; remove it, or choose another --out"
        )


def _write_media(
    clips: Mapping[str, VideoFolder],
    shared: Mapping[str, Mapping[str, int]],
    secret: str,
    folder: Path,
    on_item: Callable[[int, int], Any] | None,
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Re-encode the videos of every item alike, under random names.

    Returns the name of each (model, item), and what was changed about which video.
    """
    fps = common_fps([clips[m].items[i].fps for by_model in shared.values() for m, i in by_model.items()])
    total = sum(map(len, shared.values()))
    names: dict[tuple[str, str], str] = {}
    remarks: list[str] = []
    with atomic_folder(folder) as work:
        work.chmod(0o700)
        for item, by_model in shared.items():
            for model in by_model:
                names[model, item] = _random_name(secret, f"{model}/{item}")[:24]
            videos = [clips[model][index] for model, index in by_model.items()]
            changes = write_anonymized(videos, [work / f"{names[m, item]}.mp4" for m in by_model], fps)
            remarks += [f"{m}/{item}: {what}" for m, what in zip(by_model, changes, strict=True) if what]
            if on_item is not None:
                on_item(len(names), total)
    return names, remarks


def _random_name(secret: str, text: str) -> str:
    """64 hex digits that nobody without the secret can trace to the text."""
    key = bytes.fromhex(secret)
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def make_private(folder: Path) -> None:
    """Make a folder that its owner alone can read, whatever the umask; one that is there keeps what it allows.
    Raises OutputError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise OutputError(f"{folder}: is no folder; choose another --out") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None


def _giveaways(clips: Mapping[str, VideoFolder], shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What could tell models apart, or be unfair, although all videos are re-encoded alike."""
    remarks = []
    for model in clips:
        alone = sum(set(by) == {model} for by in shared.values())
        if alone and len(clips) > 1:
            remarks.append(
                f"{model}: {alone} videos of which no other model has one; raters may know it by their prompts"
            )
    for item, by_model in shared.items():
        if len({clips[m].items[i].prompt for m, i in by_model.items()} - {""}) > 1:
            remarks.append(f"{item}: made for different prompts; raters are shown the first one's")
    return remarks


def _items(clips: Mapping[str, VideoFolder], mode: Mode) -> dict[str, dict[str, int]]:
    """item -> model -> index of its video. Pairs need an item from two models. Raises InputError."""
    items: dict[str, dict[str, int]] = {}
    for model, folder in clips.items():
        for index, video in enumerate(folder.items):
            items.setdefault(video.stem, {})[model] = index
    if mode == "pairs":
        items = {name: by for name, by in items.items() if len(by) > 1}
    if not items:
        raise InputError("study: no videos, or none of the same name in two folders; pairs need equal names")
    return items


def _opened(study: Study, mode: Mode, videos: set[tuple[str, str]]) -> Study:
    if study.mode != mode:
        raise ConfigError(f"mode {mode}: this study is one of {study.mode}; choose another --out")
    known = {(model, unit.item) for unit in study.units for model in unit.models}
    if known != videos:
        raise ConfigError(
            f"study: made of {len(known)} videos, now there are {len(videos)} or others; choose another --out"
        )
    return study
