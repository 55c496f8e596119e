"""What captioners and summarisers are trained on: clips with captions, texts with their summaries, token ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.captioning.local import CaptionerConfig, sample_frames
from cogvideox.data.clips import world_pixels
from cogvideox.errors import ConfigError
from cogvideox.files.jsonl import read_json_lines
from cogvideox.text.tokenizer import PAD
from cogvideox.training.tasks.text_encoder import labels
from cogvideox.video import read_video
from cogvideox.world import Scene, caption, facts, read_caption, sample_scene
from cogvideox.world.captions import Check

ONE_IN_HELD_OUT = 10
"""One in so many texts is never trained on."""


class CaptionedClips(Protocol):
    """Clips with captions, counted from 0 within their split."""

    count: int
    """Clips to train on."""
    labels: list[str]
    """Facts that can be predicted; empty where the truth is not known."""
    measured: dict[str, list[int]]
    """Split -> indices of the clips that are measured."""

    def pictures(self, split: str, index: int) -> Tensor:
        """``uint8 [t, h, w, 3]``, as the network sees them."""

    def text(self, split: str, index: int, variant: int) -> str:
        """A caption of a clip; ``variant`` chooses among several."""

    def facts(self, split: str, index: int) -> set[Check]:
        """What a caption of a clip should state."""

    def truth(self, indices: list[int]) -> Tensor:
        """1 where a training clip has a label, ``float [b, labels]``."""


class CaptionedWorldClips(CaptionedClips):
    """Rendered scenes of the tiny world; each is rendered once."""

    def __init__(self, seed: int, count: int, held_out: int, shape: CaptionerConfig) -> None:
        self.seed, self.count, self.shape = seed, count, shape
        scenes = [sample_scene(seed, index, "train") for index in range(2000)]
        self.labels = sorted({label for scene in scenes for label in labels(scene)})
        self.measured = {"new": list(range(count, count + held_out)), "held_out": list(range(held_out))}
        self._rendered: dict[tuple[str, int], Tensor] = {}

    def pictures(self, split: str, index: int) -> Tensor:
        key = (_world_split(split), index)
        if key not in self._rendered:
            clips = world_pixels(self.seed, [index], key[0], self.shape.size, self.shape.frames)
            self._rendered[key] = clips[0]
        return self._rendered[key]

    def text(self, split: str, index: int, variant: int) -> str:
        return caption(self._scene(split, index), self.seed, index * 31 + variant % 31)

    def facts(self, split: str, index: int) -> set[Check]:
        return set(facts(self._scene(split, index)))

    def truth(self, indices: list[int]) -> Tensor:
        stated = [labels(self._scene("train", index)) for index in indices]
        return torch.tensor([[float(name in each) for name in self.labels] for each in stated])

    def _scene(self, split: str, index: int) -> Scene:
        return sample_scene(self.seed, index, _world_split(split))


def _world_split(split: str) -> str:
    """The split of the world that a split of clips is drawn from: clips that are ``new`` are of the training part."""
    return "held_out" if split == "held_out" else "train"


class RecordedClips(CaptionedClips):
    """Videos and their captions: lines of ``metadata.jsonl`` with ``file_name`` (beside it) and ``text``."""

    def __init__(self, file: Path, held_out: int, shape: CaptionerConfig) -> None:
        self.folder, self.shape = file.parent, shape
        self.labels: list[str] = []
        lines = read_lines(file, "file_name", "text")
        pairs = [(str(line["file_name"]), str(line["text"])) for line in lines]
        self._pairs = {
            "train": [pair for pair in pairs if not is_held_out(pair[0])],
            "held_out": [pair for pair in pairs if is_held_out(pair[0])][:held_out],
        }
        empty = [split for split, some in self._pairs.items() if not some]
        if empty:
            total = sum(map(len, self._pairs.values()))
            raise ConfigError(f"data {file}: of {total} lines none is left for {empty[0]}; give some dozens")
        self.count = len(self._pairs["train"])
        self.measured = {"held_out": list(range(len(self._pairs["held_out"])))}
        self._decoded: dict[str, Tensor] = {}

    def pictures(self, split: str, index: int) -> Tensor:
        name = self._pairs[split][index][0]
        if name not in self._decoded:
            frames = sample_frames(read_video(self.folder / name).frames, self.shape)
            self._decoded[name] = torch.from_numpy(frames)
        return self._decoded[name]

    def text(self, split: str, index: int, variant: int) -> str:
        return self._pairs[split][index][1]

    def facts(self, split: str, index: int) -> set[Check]:
        return set(read_caption(self._pairs[split][index][1]))

    def truth(self, indices: list[int]) -> Tensor:
        return torch.zeros(len(indices), 0)


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
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[0] % ONE_IN_HELD_OUT == 0


def padded(texts: list[list[int]]) -> Tensor:
    """Token ids of texts, padded to one length [b, l]."""
    longest = max(map(len, texts))
    return torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in texts])


def shifted(ids: Tensor) -> Tensor:
    """What a decoder reads to predict ``ids`` [b, l]: the token before each, PAD before the first."""
    return torch.cat([torch.full_like(ids[:, :1], PAD), ids[:, :-1]], dim=1)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens ``ids`` [b, l] under ``logits`` [b, l, v]; padding does not count."""
    return F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), ignore_index=PAD)
