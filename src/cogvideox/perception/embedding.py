"""What is seen, as a unit vector: near vectors, alike clips. CLIP from a user's folder, or a plain one that ships."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from cogvideox.errors import CheckpointError, DependencyError
from cogvideox.perception.flow import opencv


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


SIDE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageText(Protocol):
    """Pictures and texts to unit vectors whose dot product says how well they fit."""

    name: str

    def images(self, frames: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` -> ``float64 [n, d]`` of length 1."""

    def texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> ``float64 [n, d]`` of length 1."""


class ClipImageText:
    """transformers' CLIP from a local folder: bicubic to the short side, centre cut, 77 tokens at most."""

    def __init__(self, folder: str | Path, batch: int = 32) -> None:
        self.folder, self.batch = Path(folder), batch
        self.name = f"clip-{self.folder.name}"

    def images(self, frames: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` -> ``float64 [n, d]`` of length 1."""
        import torch

        side = self._model.config.vision_config.image_size
        rows = []
        with torch.inference_mode():
            for first in range(0, len(frames), self.batch):
                pixels = clip_pixels(frames[first : first + self.batch], side)
                vision = self._model.vision_model(pixel_values=pixels)
                rows.append(self._model.visual_projection(vision.pooler_output).double().numpy())
        return unit(np.concatenate(rows))

    def texts(self, texts: list[str]) -> np.ndarray:
        """Texts, cut at 77 tokens -> ``float64 [n, d]`` of length 1."""
        import torch

        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        with torch.inference_mode():
            found = self._model.text_model(**tokens)
            return unit(self._model.text_projection(found.pooler_output).double().numpy())

    @cached_property
    def _model(self) -> Any:
        return load_clip("CLIPModel", self.folder, use_safetensors=True).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        return load_clip("CLIPTokenizer", self.folder)


def load_clip(kind: str, folder: Path, **settings: Any) -> Any:
    """A part of CLIP by its class in transformers, from a local folder.

    Raises DependencyError without transformers, CheckpointError when the folder holds no CLIP.
    """
    try:
        import transformers
    except ImportError:
        raise DependencyError("transformers is not installed; install cogvideox[transformers]") from None
    try:
        return getattr(transformers, kind).from_pretrained(str(folder), local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{folder}: no CLIP can be read ({reason}); give its folder") from None


def clip_pixels(pictures: Iterable[np.ndarray], side: int = SIDE) -> Any:
    """Pictures ``uint8 [h, w, 3]`` of whatever sizes -> what CLIP reads: a float32 tensor ``[n, 3, side, side]``."""
    import torch

    return torch.from_numpy(np.stack([clip_picture(picture, side) for picture in pictures]))


def clip_picture(frame: np.ndarray, side: int) -> np.ndarray:
    """``uint8 [h, w, 3]`` -> ``float32 [3, side, side]`` as CLIP was trained on it."""
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    image = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    values = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1), np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``[..., d]`` scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
