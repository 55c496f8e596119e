"""Interfaces of the networks that VBench uses, and ``RecordedExpert``: their outputs read from a file.

The published networks (GRiT, Tag2Text, UMT, RAFT) need Python environments of their own. Run them there, write one line
of JSON per video (docs/evaluation.md, --observations), and the rules of ``evaluation.vbench`` read it. There is no
stand-in for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cogvideox.errors import InputError
from cogvideox.files import parse_json, read_small_text
from cogvideox.files.jsonl import lines_of

KINDS = ("objects", "captions", "actions", "flow")
MOST_BYTES = 1 << 30


class Expert(Protocol):
    """A network that VBench runs on a video."""

    @property
    def name(self) -> str:
        """The network's name for the record."""


class Detector(Expert, Protocol):
    """Detects the objects in each of 16 frames, by name (VBench: GRiT)."""

    def __call__(self, frames: np.ndarray, video: str) -> Sequence[set[str]]:
        """``uint8 [16, h, w, 3]`` and the video's name -> a set of names per frame."""


class CaptionExpert(Expert, Protocol):
    """Writes one caption for each of 16 frames (VBench: Tag2Text)."""

    def __call__(self, frames: np.ndarray, video: str) -> Sequence[str]:
        """``uint8 [16, h, w, 3]`` and the video's name -> a caption per frame."""


class ActionClassifier(Expert, Protocol):
    """Gives probabilities of actions (VBench: UMT on Kinetics-400, after the sigmoid)."""

    def __call__(self, frames: np.ndarray, video: str) -> Mapping[str, float]:
        """``uint8 [16, h, w, 3]`` and the video's name -> label -> probability."""


class FlowMagnitudes(Expert, Protocol):
    """Measures how far pixels move in each pair of frames (VBench: RAFT): the mean of the largest 5 %, in pixels."""

    def __call__(self, frames: np.ndarray, video: str) -> Sequence[float]:
        """``uint8 [n, h, w, 3]`` and the video's name -> n - 1 numbers."""


@dataclass(frozen=True)
class RecordedExpert:
    """The recorded outputs of one network: ``answers`` by file name of the video; ``kind`` is one of KINDS."""

    name: str
    kind: str
    answers: Mapping[str, Any] = field(repr=False)

    def __call__(self, frames: np.ndarray, video: str) -> Any:
        """The recorded output for a video; ``frames`` are not read. Raises InputError where none was recorded."""
        if video not in self.answers:
            raise InputError(
                f"{video}: the file of observations has no {self.kind} of {self.name} for it; record it and run again"
            )
        return self.answers[video]


def read_recorded(path: str | Path) -> dict[str, RecordedExpert]:
    """Experts by kind (objects, captions, actions, flow), from a file of JSON lines.

    The first line names the networks: ``{"models": {"objects": "GRiT-B ..."}}``; every other one is about a video:
    ``{"file": "a-0.mp4", "objects": [["cat", "dog"], ...], "captions": ["a cat", ...], "actions": {"juggling
    balls": 0.91}, "flow": [3.1, ...]}``. Raises InputError.
    """
    try:
        texts = filter(str.strip, lines_of(read_small_text(path, most=MOST_BYTES)))
        lines = [parse_json(text, "a line", error=InputError, nan_is_none=True) for text in texts]
        models = dict(lines[0]["models"])
        rows = {str(line["file"]): line for line in lines[1:]}
    except (InputError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: no recorded observations ({type(error).__name__}: {error}); the first line must be "
            '{"models": {...}}; format: docs/evaluation.md, --observations'
        ) from None
    experts = {}
    for kind in [kind for kind in KINDS if kind in models]:
        answers = {name: _read(kind, row[kind], path) for name, row in rows.items() if kind in row}
        experts[kind] = RecordedExpert(str(models[kind]), kind, answers)
    return experts


def _read(kind: str, value: Any, path: str | Path) -> Any:
    """One recorded value with its type checked. Raises InputError."""
    try:
        if kind == "objects":
            return [{str(name) for name in names} for names in value]
        if kind == "captions":
            return [str(caption) for caption in value]
        if kind == "actions":
            return {str(label): float(probability) for label, probability in value.items()}
        return [float(each) for each in value]
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{path}: {kind} {str(value)[:60]!r} has another form; format: docs/evaluation.md, --observations"
        ) from None
