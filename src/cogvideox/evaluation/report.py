"""``ScoreReport``: the scores of one set of videos, with the videos that were measured and those that were left out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cogvideox.errors import CogVideoXError, InputError, OutputError
from cogvideox.evaluation.score import Score, number
from cogvideox.evaluation.video_folder import Refused, VideoFolder
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.manifest import versions

SCHEMA = "cogvideox-evaluation-1"
FILE = "report.json"
KEYS = {"provenance": "made"}
"""Fields of ScoreReport that have another name in report.json."""


@dataclass(frozen=True)
class ScoreReport:
    """The scores of a suite on the videos of one subject (a folder or a model).

    ``videos``: name, prompt and size of each that was read; the scores' ``each`` follow their order. ``provenance``:
    when and by which versions (``made`` in report.json). ``comparison``: with another run: ``against`` (its subject),
    ``least_prompts`` and ``rows``; {} when there was none.
    """

    suite: str
    subject: str
    scores: tuple[Score, ...]
    videos: tuple[dict[str, Any], ...]
    refused: tuple[Refused, ...] = ()
    missing: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, suite: str, subject: str, scores: list[Score], videos: VideoFolder, **rest: Any
    ) -> ScoreReport:
        """A report of these scores on these videos, with the time and versions of now."""
        keys = ("name", "prompt", "frames", "height", "width", "fps", "sha256")
        facts = tuple({key: getattr(item, key) for key in keys} for item in videos.items)
        provenance = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
        return cls(suite, subject, tuple(scores), facts, videos.refused, provenance=provenance, **rest)

    @property
    def counted(self) -> str:
        """One line of text: how many videos were read, and how many were left out, by kind of problem."""
        kinds = Counter(each.kind for each in self.refused)
        left = [f"{number} {kind}" for kind, number in kinds.items()]
        left += [f"{len(self.missing)} missing"] if self.missing else []
        return f"{len(self.videos)} videos read" + (
            f"; left out: {', '.join(left)}" if left else "; none left out"
        )

    def score(self, name: str) -> Score:
        """The score of this name. Raises InputError where the suite has none."""
        for score in self.scores:
            if score.name == name:
                return score
        raise InputError(f"score {name!r}: not in this report of suite {self.suite}")

    def table(self) -> str:
        """Markdown: what was computed, what was not and why, and which videos were left out."""
        lines = ["| score | value | 95 % interval | videos | better |", "|---|---|---|---|---|"]
        computed = [score for score in self.scores if score.value is not None]
        lines += [
            f"| {s.name} | {number(s.value)} {s.unit} | {s.interval} | {s.videos} | {s.better} |"
            for s in computed
        ]
        lines += ["", self.counted + "."]
        lines += [f"{s.name}: {s.settings['left_out']}." for s in computed if s.settings.get("left_out")]
        absent = [f"- {score.name}: {score.why}" for score in self.scores if score.value is None]
        lines += ["", "Not computed:", *absent] if absent else []
        refused = [f"- {each.name}: {each.kind}, {each.why}" for each in self.refused]
        lines += ["", "Left out:", *refused] if refused else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json: plain values."""
        plain = {KEYS.get(name, name): getattr(self, name) for name in self.__dataclass_fields__}
        plain["scores"] = [score.to_dict() for score in self.scores]
        plain["refused"] = [vars(each) for each in self.refused]
        return {"schema": SCHEMA, **plain}

    def save(self, folder: Path) -> Path:
        """Write report.json into ``folder``; returns its path."""
        return write_json(folder / FILE, self.to_dict(), overwrite=True)

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raises OutputError where a file in ``folder`` has a name that evaluate writes and was not written by it.

        Called before anything is measured.
        """
        for name in (FILE, "comparison.json", "scores.json", "report.html"):
            if os.path.lexists(folder / name) and not _is_of_an_evaluation(folder, name):
                raise OutputError(
                    f"{folder / name}: was not made by evaluate, so it is not replaced; choose another --out, or move "
                    "it away"
                )

    @classmethod
    def read(cls, folder: str | Path) -> ScoreReport:
        """From report.json of a folder, or that file itself. Raises InputError."""
        file = Path(folder)
        file = file / FILE if file.is_dir() else file
        try:
            record = read_json(file, most=256 << 20, nan_is_none=True, error=InputError)
            if record.pop("schema") != SCHEMA:
                raise KeyError("schema")
            record["scores"] = tuple(Score.from_dict(score) for score in record["scores"])
            record["refused"] = tuple(Refused(**each) for each in record["refused"])
            for name in ("videos", "missing"):
                record[name] = tuple(record[name])
            for name, key in KEYS.items():
                record[name] = record.pop(key, {})
            return cls(**record)
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, InputError) else type(error).__name__
            raise InputError(
                f"{file}: not a report of `cogvideox evaluate` ({why[:200]}); run that first"
            ) from None


def _is_of_an_evaluation(folder: Path, name: str) -> bool:
    """Whether a file was written by evaluate, by its content; report.html by the report.json beside it."""
    try:
        record = read_json(
            folder / (FILE if name.endswith(".html") else name), most=256 << 20, nan_is_none=True
        )
    except CogVideoXError:
        return False
    if name == "comparison.json":
        return isinstance(record, list) and all(isinstance(row, dict) and "verdict" in row for row in record)
    if name == "scores.json":
        return isinstance(record, dict) and ("rows" in record or "videos" in record)
    return isinstance(record, dict) and str(record.get("schema", "")).startswith("cogvideox-evaluation-")
