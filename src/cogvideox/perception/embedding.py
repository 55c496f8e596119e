"""What is seen, as a unit vector: near vectors, alike clips. CLIP from a user's folder, or a plain one that ships."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cogvideox.errors import CheckpointError, DependencyError
from cogvideox.perception.flow import opencv

CLIP_SIDE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


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
        try:
            from transformers import CLIPVisionModelWithProjection
        except ImportError:
            raise DependencyError("transformers is not installed; install cogvideox[caption]") from None
        try:
            model = CLIPVisionModelWithProjection.from_pretrained(
                str(self.folder), local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.folder}: no CLIP model can be read ({why}); give its folder"
            ) from None
        return model.eval().to(self.device)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """See Embedder. Raises CheckpointError when the folder holds no CLIP."""
        import torch

        side = self._model.config.image_size
        with torch.inference_mode():
            found = self._model(pixel_values=clip_pixels(pictures, side).to(self.device)).image_embeds
        return np.stack([_unit(row) for row in found.float().cpu().numpy()])


def clip_pixels(pictures: np.ndarray, side: int = CLIP_SIDE):
    """``uint8 [n, h, w, 3]`` -> what CLIP reads: ``float32 [n, 3, side, side]``, shorter side fitted, centre cut."""
    import torch

    cv2 = opencv()
    ready = []
    for picture in pictures:
        scale = side / min(picture.shape[:2])
        size = (max(side, round(picture.shape[1] * scale)), max(side, round(picture.shape[0] * scale)))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        fitted = cv2.resize(picture, size, interpolation=way)
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        ready.append(fitted[top : top + side, left : left + side])
    values = (np.stack(ready).astype(np.float32) / 255 - CLIP_MEAN) / CLIP_STD
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-8)).astype(np.float32)
