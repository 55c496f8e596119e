"""What captioners and summarisers are trained on: clips with words, and texts with their summaries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.captioning.local import sample_frames
from cogvideox.captioning.network import CaptionerConfig
from cogvideox.data.world import world_pixels
from cogvideox.errors import ConfigError
from cogvideox.files.jsonl import read_json_lines
from cogvideox.text.tokenizer import PAD
from cogvideox.training.tasks.text_encoder import labels
from cogvideox.video import read_video
from cogvideox.world import caption, facts, read_caption, sample_scene

SHARE_HELD_OUT = 10  # one in so many texts is never trained on


class CaptionedClips(Protocol):
    """Clips with captions, numbered within their split."""

    count: int
    """How many there are to train on."""
    labels: list[str]
    """Facts that can be predicted; empty where the truth is not known."""
    measured: dict[str, list[int]]
    """Split -> the clips that are measured."""

    def pictures(self, split: str, row: int) -> Tensor:
        """``uint8 [t, h, w, 3]``, as the network sees them."""

    def text(self, split: str, row: int, variant: int) -> str:
        """A caption."""

    def facts(self, split: str, row: int) -> set:
        """What a caption of it should state."""

    def truth(self, rows: list[int]) -> Tensor:
        """1 where a training clip has a label, ``float [b, labels]``."""


class CaptionedWorldClips:
    """Rendered scenes; each is rendered once."""

    def __init__(self, seed: int, count: int, held_out: int, shape: CaptionerConfig) -> None:
        self.seed, self.count, self.shape = seed, count, shape
        scenes = [sample_scene(seed, index, "train") for index in range(2000)]
        self.labels = sorted({label for scene in scenes for label in labels(scene)})
        self.measured = {"new": list(range(count, count + held_out)), "held_out": list(range(held_out))}
        self._made: dict[tuple[str, int], Tensor] = {}

    def pictures(self, split: str, row: int) -> Tensor:
        place = (_world(split), row)
        if place not in self._made:
            found = world_pixels(self.seed, [row], place[0], self.shape.size, self.shape.frames)
            self._made[place] = found[0]
        return self._made[place]

    def text(self, split: str, row: int, variant: int) -> str:
        return caption(sample_scene(self.seed, row, _world(split)), self.seed, row * 31 + variant % 31)

    def facts(self, split: str, row: int) -> set:
        return set(facts(sample_scene(self.seed, row, _world(split))))

    def truth(self, rows: list[int]) -> Tensor:
        stated = [labels(sample_scene(self.seed, row, "train")) for row in rows]
        return torch.tensor([[float(name in each) for name in self.labels] for each in stated])


def _world(split: str) -> str:
    return "held_out" if split == "held_out" else "train"


class RecordedClips:
    """Videos and their captions: lines of ``metadata.jsonl`` with ``file_name`` (beside it) and ``text``."""

    def __init__(self, file: Path, held_out: int, shape: CaptionerConfig) -> None:
        self.folder, self.shape = file.parent, shape
        self.labels: list[str] = []
        pairs = [
            (str(line["file_name"]), str(line["text"])) for line in read_lines(file, "file_name", "text")
        ]
        self._pairs = {
            "train": [p for p in pairs if not is_held_out(p[0])],
            "held_out": [p for p in pairs if is_held_out(p[0])][:held_out],
        }
        _enough(file, self._pairs)
        self.count = len(self._pairs["train"])
        self.measured = {"held_out": list(range(len(self._pairs["held_out"])))}
        self._made: dict[str, Tensor] = {}

    def pictures(self, split: str, row: int) -> Tensor:
        name = self._pairs[split][row][0]
        if name not in self._made:
            self._made[name] = torch.from_numpy(
                sample_frames(read_video(self.folder / name).frames, self.shape)
            )
        return self._made[name]

    def text(self, split: str, row: int, variant: int) -> str:
        return self._pairs[split][row][1]

    def facts(self, split: str, row: int) -> set:
        return set(read_caption(self._pairs[split][row][1]))

    def truth(self, rows: list[int]) -> Tensor:
        return torch.zeros(len(rows), 0)


def read_lines(file: Path, *names: str) -> list[dict[str, Any]]:
    """The JSON lines of a file that have every name. Raises ConfigError."""
    lines = []
    for where, line in read_json_lines(file, most=8 << 30, error=ConfigError):
        if not isinstance(line, dict) or not set(names) <= line.keys():
            raise ConfigError(f"data {where}: needs {', '.join(names)}; `cogvideox caption` writes them")
        lines.append(line)
    return lines


def is_held_out(name: str) -> bool:
    """Whether a text or a file is never trained on, by its name alone."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[0] % SHARE_HELD_OUT == 0


def _enough(file: Path, splits: dict[str, list]) -> None:
    empty = [split for split, some in splits.items() if not some]
    if empty:
        total = sum(map(len, splits.values()))
        raise ConfigError(f"data {file}: of {total} lines none is left for {empty[0]}; give some dozens")


def padded(rows: list[list[int]]) -> Tensor:
    """Token ids of one length [b, l]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def shifted(words: Tensor) -> Tensor:
    """What is told before each word: PAD first."""
    return torch.cat([torch.full_like(words[:, :1], PAD), words[:, :-1]], dim=1)


def word_loss(scores: Tensor, words: Tensor) -> Tensor:
    """Mean cross-entropy of the next word."""
    return F.cross_entropy(scores.flatten(0, 1).float(), words.flatten(), ignore_index=PAD)
