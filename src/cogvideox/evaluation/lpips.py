"""LPIPS of videos against their originals, by whatever network measures the distance of two pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cogvideox.errors import CheckpointError
from cogvideox.evaluation.fidelity import paired
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.lpips import LPIPS, STAND_IN, load_lpips
from cogvideox.video import Video


class Distance(Protocol):
    """How different pictures look; ``name`` says by which weights."""

    name: str

    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` twice -> one distance per picture."""


def lpips(videos: Iterable[Video], references: Iterable[Video], distance: Distance | None) -> Score:
    """Mean over frames of the distance to the original's frame (Zhang et al. 2018), whole frames, no resizing.

    The shipped stand-in's score has another name: it is no published LPIPS.
    """
    if distance is None:
        why = "needs VGG16 and LPIPS's heads (--lpips FOLDER)"
        return not_computed("lpips_vgg", why, better="lower")
    name = "lpips_vgg" if distance.name.startswith("vgg16") else "lpips_stand_in"
    each = list(paired(videos, references, lambda a, b: float(np.mean(distance(a, b)))))
    protocol = "mean over frames, whole frames"
    return mean_score(name, each, better="lower", protocol=protocol, settings={"network": distance.name})


class DistanceNetwork:
    """LPIPS by a network of ``perception.lpips``; the shipped stand-in's numbers are not published LPIPS."""

    def __init__(self, network: LPIPS, name: str) -> None:
        self.network, self.name = network, name

    @classmethod
    def load(cls, folder: str | Path | None = None) -> DistanceNetwork | None:
        """VGG16 from a folder with ``vgg16`` and ``vgg`` (.pth or .safetensors); without one the stand-in.

        None where no stand-in ships. Raises CheckpointError.
        """
        if folder is None and not STAND_IN.is_file():
            return None
        if folder is None:
            return cls(load_lpips(), "stand-in of the tiny world (not published LPIPS)")
        files = [_one_of(Path(folder), stem) for stem in ("vgg16", "vgg")]
        return cls(load_lpips(*files), "vgg16, version 0.1")

    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """See Distance; eight pictures at a time."""
        found = []
        with torch.inference_mode():
            for first in range(0, len(frames), 8):
                found.append(self.network(*(_pixels(side[first : first + 8]) for side in (frames, truth))))
        return torch.cat(found).double().numpy()


def _pixels(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _one_of(folder: Path, stem: str) -> Path:
    for suffix in (".safetensors", ".pth"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise CheckpointError(f"{folder}: holds no {stem}.pth or .safetensors; put VGG16 and LPIPS's heads there")
