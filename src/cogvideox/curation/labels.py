"""The six negative labels of the paper (section 3, appendix): what they mean, how people write them down, who judges.

A label is true when the clip has the defect. Files of labels are JSON lines,
``{"path": "a.mp4", "labels": {"text": true}}``; a label that is not named is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvideox.clip import Clip, Label
from cogvideox.curation.step import CurationStep, View
from cogvideox.errors import InputError, suggest
from cogvideox.files.atomic import write_text
from cogvideox.files.jsonl import read_json_lines
from cogvideox.perception.handcrafted import LabelClassifier, handcrafted_features

MEANING = {
    "editing": "edited again after filming: cuts, inserts, split screens, stickers, effects",
    "static": "lack of motion connectivity: stills, slide shows, steps instead of movement",
    "low_quality": "blurred, noisy, starved of bits, badly lit, shaken",
    "lecture": "mostly somebody who talks or teaches, little else moves",
    "text": "a large part of the picture is writing",
    "screenshot": "recorded or filmed from the screen of a computer or a phone",
}
LABELS = tuple(MEANING)


class Labels(CurationStep):
    """Probabilities of the six labels by the classifier that ships, or by yours."""

    kind: Literal["labels"] = "labels"
    gives = tuple(f"label.{name}" for name in LABELS)
    classifier: str | None = Field(
        None, description="folder of a trained classifier; none: the one that ships"
    )

    def measure(self, clip: Clip, view: View) -> Clip:
        """``clip.labels``, and the probabilities as scores ``label.<name>``, for rules."""
        judge = _classifier(self.classifier)
        return labelled(
            clip,
            {
                name: Label(
                    probability=round(float(value), 4),
                    threshold=round(judge.thresholds[name], 4),
                    judge=judge.name,
                )
                for name, value in judge(handcrafted_features(view.pictures)).items()
            },
        )


@cache
def _classifier(folder: str | None) -> LabelClassifier:
    """The classifier of this folder, loaded once a process."""
    return LabelClassifier.load(Path(folder) if folder else None)


def labelled(clip: Clip, labels: dict[str, Label]) -> Clip:
    """The clip with ``labels``, and their probabilities as scores ``label.<name>``, for rules."""
    scores = {f"label.{name}": label.probability for name, label in labels.items()}
    return clip.model_copy(update={"labels": labels}).with_scores(**scores)


def read_labels(path: str | Path) -> dict[str, dict[str, bool]]:
    """path of a video -> its known labels; later lines win. Raises InputError that names the line."""
    known: dict[str, dict[str, bool]] = {}
    try:
        for where, values in read_json_lines(path):
            name, labels = _checked(values, where)
            known.setdefault(name, {}).update(labels)
    except InputError as error:
        raise InputError(
            f'{error}; a line looks like {{"path": "a.mp4", "labels": {{"text": true}}}}'
        ) from None
    return known


def _checked(values: Any, where: str) -> tuple[str, dict[str, bool]]:
    if not isinstance(values, dict) or not {"path", "labels"} <= values.keys():
        raise InputError(f"{where}: no path or no labels in it")
    name, labels = values["path"], values["labels"]
    if not isinstance(name, str) or not isinstance(labels, dict):
        raise InputError(f"{where}: path is a text and labels a table of true and false")
    for label, value in labels.items():
        if label not in MEANING:
            raise InputError(
                f"{where}: label {label!r}: unknown{suggest(label, LABELS)}; there are {', '.join(LABELS)}"
            )
        if not isinstance(value, bool):
            raise InputError(f"{where}: label {label!r} is {value!r}; it is true or false")
    return name, labels


def write_labels(path: str | Path, labels: Mapping[str, Mapping[str, bool]]) -> None:
    """Write a file of labels, whole or not at all, videos in order. Raises OutputError."""
    lines = []
    for name in sorted(labels):
        known = {label: bool(labels[name][label]) for label in LABELS if label in labels[name]}
        lines.append(json.dumps({"path": name, "labels": known}) + "\n")
    write_text(Path(path), "".join(lines))
