"""A study: videos of several models for the same prompts, under names that say nothing, and who sees what when.

Everything is coded again with one setting, so that neither file names nor codecs tell the models apart. What a rater
is asked next is a signed assignment: nobody can rate what was not given to them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluation.clips import Clips, Refused, open_clips
from cogvideox.evaluation.human import ASPECTS, GRADES, MOST_TOTAL, Battle, Rating
from cogvideox.serving.ledger import Entry
from cogvideox.video import Video, write_json

FILE, MEDIA, LEDGER = "study.json", "media", "ratings.sqlite"
LEAST_HEIGHT = (
    240  # pixels; smaller videos are enlarged without blur, so that codecs and screens do not blur them
)
LONGEST_NOTE = 2000
Mode = Literal["grades", "pairs"]


@dataclass(frozen=True)
class Unit:
    """What one rating is about: a prompt and one video, or two (pairs)."""

    id: str
    item: str
    prompt: str
    models: tuple[str, ...]
    media: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """``units`` in the order they were made; every rater sees them in an order of their own."""

    mode: Mode
    secret: str
    units: tuple[Unit, ...]
    refused: tuple[Refused, ...] = ()

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

    def turned(self, rater: str, unit: Unit) -> bool:
        """Whether this rater sees the second video of a pair on the left."""
        return int(self._sign("side", f"{rater}/{unit.id}")[:2], 16) % 2 == 1

    def media_for(self, rater: str, unit: Unit) -> tuple[str, ...]:
        """The videos in the order they are shown."""
        return unit.media[::-1] if self.turned(rater, unit) and len(unit.media) == 2 else unit.media

    def assignment(self, rater: str, unit: Unit) -> str:
        """What the page sends back with a rating."""
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

    def entry(self, assignment: str, said: Mapping[str, Any]) -> Entry:
        """What the page sent, checked. Raises InputError."""
        rater, unit = self.assigned(assignment)
        note = str(said.get("note", ""))[:LONGEST_NOTE]
        if self.mode == "pairs":
            choice = said.get("choice")
            if choice not in ("left", "right", "tie"):
                raise InputError(f"choice {str(choice)[:40]!r}: left, right or tie")
            place = {"left": 0, "right": 1}.get(str(choice))
            if place is not None and self.turned(rater, unit):
                place = 1 - place
            return Entry(rater, unit.id, {"winner": "tie" if place is None else "ab"[place], "note": note})
        aspects, total = said.get("aspects"), said.get("total")
        if not isinstance(aspects, dict) or set(aspects) != set(ASPECTS):
            raise InputError(f"aspects: grade each of {', '.join(ASPECTS)}")
        if any(isinstance(v, bool) or v not in GRADES for v in aspects.values()):
            raise InputError("aspects: each grade is 0, 0.5 or 1")
        if isinstance(total, bool) or not isinstance(total, int | float) or not 0 <= total <= MOST_TOTAL:
            raise InputError(f"total: a number from 0 to {MOST_TOTAL:g}")
        grades = {name: float(value) for name, value in aspects.items()}
        return Entry(rater, unit.id, {"aspects": grades, "total": float(total), "note": note})

    def ratings(self, entries: Sequence[Entry]) -> list[Rating]:
        """Entries of a study of grades, with the models' names."""
        units = {unit.id: unit for unit in self.units}
        return [
            Rating(e.rater, units[e.unit].models[0], units[e.unit].item, e.said["aspects"], e.said["total"])
            for e in entries
            if e.unit in units
        ]

    def battles(self, entries: Sequence[Entry]) -> list[Battle]:
        """Entries of a study of pairs, with the models' names."""
        units = {unit.id: unit for unit in self.units}
        found = []
        for entry in entries:
            if entry.unit in units:
                a, b = units[entry.unit].models
                found.append(Battle(entry.rater, units[entry.unit].item, a, b, entry.said["winner"]))
        return found

    def save(self, folder: Path) -> None:
        """Write study.json; it holds the secret, so only its owner may read it."""
        record = {name: getattr(self, name) for name in ("mode", "secret")}
        record["units"] = [vars(unit) for unit in self.units]
        record["refused"] = [vars(each) for each in self.refused]
        write_json(folder / FILE, record, overwrite=True).chmod(0o600)

    @classmethod
    def read(cls, folder: Path) -> Study:
        """From study.json. Raises InputError."""
        file = folder / FILE
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            units = tuple(
                Unit(**{**unit, "models": tuple(unit["models"]), "media": tuple(unit["media"])})
                for unit in record["units"]
            )
            return cls(
                record["mode"], record["secret"], units, tuple(Refused(**r) for r in record["refused"])
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{file}: no study ({type(error).__name__}); make one with rate serve") from None


def make_study(
    folders: Mapping[str, Path],
    out: Path,
    mode: Mode = "grades",
    on_item: Callable[[int, int], Any] | None = None,
) -> Study:
    """Prepare a study in ``out``; one that is there already is opened, and must be of the same videos and mode.

    ``folders``: model -> its videos. Raises InputError, ConfigError.
    """
    clips = {model: open_clips(folder) for model, folder in folders.items()}
    refused = tuple(
        Refused(f"{m}/{r.name}", r.kind, r.why) for m, each in clips.items() for r in each.refused
    )
    shared = _items(clips, mode)
    if (out / FILE).exists():
        return _opened(Study.read(out), mode, {(m, i) for i, by in shared.items() for m in by})
    secret = secrets.token_hex(32)
    media: dict[tuple[str, str], str] = {}
    total = sum(map(len, shared.values()))
    for item, by_model in shared.items():
        for model, place in by_model.items():
            digest = hmac.new(bytes.fromhex(secret), f"{model}/{item}".encode(), hashlib.sha256).hexdigest()
            media[model, item] = digest[:24]
            _code_again(clips[model][place], out / MEDIA / f"{digest[:24]}.mp4")
            if on_item is not None:
                on_item(len(media), total)
    units = []
    for item, by_model in shared.items():
        prompt = next(filter(None, (clips[m].items[p].prompt for m, p in by_model.items())), "")
        groups = [(m,) for m in by_model] if mode == "grades" else list(combinations(sorted(by_model), 2))
        for models in groups:
            files = tuple(media[model, item] for model in models)
            unit = hashlib.sha256("/".join(files).encode()).hexdigest()[:16]
            units.append(Unit(unit, item, prompt, tuple(models), files))
    study = Study(mode, secret, tuple(units), refused)
    study.save(out)
    return study


def _items(clips: Mapping[str, Clips], mode: Mode) -> dict[str, dict[str, int]]:
    """item -> model -> place of its video. Pairs need an item from two models. Raises InputError."""
    found: dict[str, dict[str, int]] = {}
    for model, each in clips.items():
        for place, item in enumerate(each.items):
            name = item.name.rpartition(".")[0]
            found.setdefault(name, {})[model] = place
    if mode == "pairs":
        found = {name: by for name, by in found.items() if len(by) > 1}
    if not found:
        raise InputError("study: no videos, or none of the same name in two folders; pairs need equal names")
    return found


def _opened(study: Study, mode: Mode, videos: set[tuple[str, str]]) -> Study:
    if study.mode != mode:
        raise ConfigError(f"mode {mode}: this study is one of {study.mode}; choose another --out")
    known = {(model, unit.item) for unit in study.units for model in unit.models}
    if known != videos:
        raise ConfigError(
            f"study: made of {len(known)} videos, now there are {len(videos)} or others; choose another --out"
        )
    return study


def _code_again(video: Video, path: Path) -> None:
    """One setting for all; small frames enlarged by a whole number."""
    grow = max(1, -(-LEAST_HEIGHT // video.height))
    frames = video.frames.repeat(grow, axis=1).repeat(grow, axis=2)
    Video(frames, video.fps).save(path, overwrite=True, metadata=False)
