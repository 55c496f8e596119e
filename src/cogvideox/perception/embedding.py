"""What is seen, as a unit vector: near vectors, alike clips. CLIP from a user's folder, or a plain one that ships."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cogvideox.perception.flow import opencv
from cogvideox.perception.image_text import clip_pixels, load_clip


class Embedder(Protocol):
    """Pictures to unit vectors."""

    name: str

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` -> ``float32 [n, d]``, each row of length 1."""


class PlainEmbedder:
    """No network: where which colours and edges are. It finds copies and near copies, not equal meanings.

    192 numbers: mean colour of an 8x4 grid of cells (96), and how much gradient each of 3 directions has there (96).
    """

    name = "plain-colour-edge-192"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """See Embedder."""
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: np.ndarray) -> np.ndarray:
        cv2 = opencv()
        small = cv2.resize(picture, (64, 32), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) - np.float32(128)
        colour = cv2.resize(lab, (8, 4), interpolation=cv2.INTER_AREA).ravel()
        grey = lab[:, :, 0]
        across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
        down = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        edges = np.stack([np.abs(across), np.abs(down), np.abs(across * down) ** 0.5], axis=2)
        edge = cv2.resize(edges, (8, 4), interpolation=cv2.INTER_AREA).ravel()
        both = np.concatenate([_unit(colour - colour.mean()), 0.7 * _unit(edge - edge.mean())])
        return _unit(both)


class ClipEmbedder:
    """A CLIP picture encoder of transformers, from a local folder; torchvision is not needed."""

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder, self.device = Path(folder), device
        self.name = f"clip-{self.folder.name}"

    @cached_property
    def _model(self) -> Any:
        found = load_clip("CLIPVisionModelWithProjection", self.folder, use_safetensors=True)
        return found.eval().to(self.device)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """See Embedder. Raises CheckpointError when the folder holds no CLIP."""
        import torch

        side = self._model.config.image_size
        with torch.inference_mode():
            found = self._model(pixel_values=clip_pixels(pictures, side).to(self.device)).image_embeds
        return np.stack([_unit(row) for row in found.float().cpu().numpy()])


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-8)).astype(np.float32)
