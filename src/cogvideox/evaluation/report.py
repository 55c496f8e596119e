"""ScoreReport = the scores of one set of videos, with every video they stand on and every one they do not."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cogvideox.errors import CogVideoXError, InputError, OutputError
from cogvideox.evaluation.score import Score
from cogvideox.evaluation.video_folder import Refused, VideoFolder
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.manifest import versions

SCHEMA = "cogvideox-evaluation-1"
FILE = "report.json"


@dataclass(frozen=True)
class ScoreReport:
    """``videos``: name, prompt and size of each that was read; the scores' ``each`` follow their order."""

    suite: str
    subject: str
    scores: tuple[Score, ...]
    videos: tuple[dict[str, Any], ...]
    refused: tuple[Refused, ...] = ()
    missing: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    """With another run: ``against`` (its subject), ``least_prompts`` and ``rows``; {} when there was none."""

    @classmethod
    def of(
        cls, suite: str, subject: str, scores: list[Score], clips: VideoFolder, **rest: Any
    ) -> ScoreReport:
        """A report of now, on what ``clips`` hold."""
        keys = ("name", "prompt", "frames", "height", "width", "fps", "sha256")
        videos = tuple({key: getattr(item, key) for key in keys} for item in clips.items)
        made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
        return cls(suite, subject, tuple(scores), videos, clips.refused, made=made, **rest)

    @property
    def counted(self) -> str:
        """One line: how many videos were read, and how many not, by kind."""
        kinds = Counter(each.kind for each in self.refused)
        left = [f"{number} {kind}" for kind, number in kinds.items()]
        left += [f"{len(self.missing)} missing"] if self.missing else []
        return f"{len(self.videos)} videos read" + (
            f"; left out: {', '.join(left)}" if left else "; none left out"
        )

    def score(self, name: str) -> Score:
        """The score of a name. Raises InputError."""
        for score in self.scores:
            if score.name == name:
                return score
        raise InputError(f"score {name!r}: not in this report of suite {self.suite}")

    def table(self) -> str:
        """Markdown: what was computed, what was not and why, and which videos were left out."""
        lines = ["| score | value | 95 % interval | videos | better |", "|---|---|---|---|---|"]
        lines += [_row(score) for score in self.scores if score.value is not None]
        lines += ["", self.counted + "."]
        lines += [
            f"{score.name}: {score.settings['left_out']}."
            for score in self.scores
            if score.value is not None and score.settings.get("left_out")
        ]
        absent = [score for score in self.scores if score.value is None]
        lines += (
            ["", "Not computed:", *(f"- {score.name}: {score.why}" for score in absent)] if absent else []
        )
        lines += (
            ["", "Left out:", *(f"- {r.name}: {r.kind}, {r.why}" for r in self.refused)]
            if self.refused
            else []
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["scores"] = [score.to_dict() for score in self.scores]
        plain["refused"] = [vars(each) for each in self.refused]
        return {"schema": SCHEMA, **plain}

    def save(self, folder: Path) -> Path:
        """Write report.json; returns where."""
        return write_json(folder / FILE, self.to_dict(), overwrite=True)

    @staticmethod
    def check_free(folder: Path) -> None:
        """Before anything is measured: what stands in ``folder`` under the names of a report must be of an evaluation.

        Raises OutputError when it is not, or when nobody can tell.
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
            return cls(**record)
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, InputError) else type(error).__name__
            raise InputError(f"{file}: no report of an evaluation ({why[:200]}); run it first") from None


def _is_of_an_evaluation(folder: Path, name: str) -> bool:
    """Whether a file has the marks of those that evaluate writes; a page has that of the report beside it."""
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


def _row(score: Score) -> str:
    between = "" if score.low is None else f"{number(score.low)} to {number(score.high)}"
    return (
        f"| {score.name} | {number(score.value)} {score.unit} | {between} | {score.videos} | {score.better} |"
    )


def number(value: float | None) -> str:
    """Four digits that matter."""
    return "" if value is None or math.isnan(value) else f"{value:.4g}"
