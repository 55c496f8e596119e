"""How pleasing is a picture? CLIP and a small head trained on ratings (from a user's files), or a plain proxy.

The paper scores clips with the LAION aesthetic predictor (appendix) and lets nothing below 4.5 in.
Its weights do not ship here; without them the proxy is used, whose score has another name and another scale, so that
the two can never be mixed up.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from cogvideox.errors import CheckpointError
from cogvideox.perception.embedding import ClipEmbedder
from cogvideox.perception.flow import opencv
from cogvideox.perception.weight_files import read_tensors


class Aesthetic(Protocol):
    """Pictures to scores; ``score`` is the name the number is kept under."""

    name: str
    score: str

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` -> ``float32 [n]``."""


class AestheticProxy:
    """No network, no ratings: colourfulness (Hasler & Süsstrunk 2003), contrast and sharpness, each 0 to 1, averaged.

    It ranks washed-out and blurred pictures low. It is not a judgement of beauty, and 4.5 means nothing to it.
    """

    name = "aesthetic-proxy-1"
    score = "aesthetic_proxy"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """See Aesthetic; between 0 and 1."""
        return np.array([self._one(picture) for picture in pictures], np.float32)

    def _one(self, picture: np.ndarray) -> float:
        cv2 = opencv()
        red, green, blue = (picture[:, :, channel].astype(np.float32) for channel in range(3))
        first, second = red - green, 0.5 * (red + green) - blue
        spread = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        sharp = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        parts = (spread / 90, float(grey.std()) / 70, np.log1p(sharp) / 8)
        return float(np.mean([min(1.0, part) for part in parts]))


class ClipAesthetic:
    """CLIP ViT-L/14 and a head of linear layers on its unit vector: scores from about 1 to 10.

    head: a .safetensors file, or a .pt/.pth file of plain tensors; keys ``layers.N.weight`` and ``.bias`` (the public
    predictor's), or just ``weight`` and ``bias``. Layers follow one another without activations, as there.
    """

    score = "aesthetic"

    def __init__(self, folder: str | Path, head: str | Path, device: str = "cpu") -> None:
        self.embed = ClipEmbedder(folder, device)
        self.head = Path(head)
        self.name = f"{self.embed.name}+{self.head.stem}"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """See Aesthetic. Raises CheckpointError when the files do not fit each other."""
        values = self.embed(pictures).astype(np.float64)
        for weight, bias in self._layers:
            if values.shape[1] != weight.shape[1]:
                raise CheckpointError(
                    f"{self.head}: a layer reads {weight.shape[1]} numbers, it gets {values.shape[1]}; "
                    f"use the head that was trained on {self.embed.folder.name}"
                )
            values = values @ weight.T + bias
        return values[:, 0].astype(np.float32)

    @cached_property
    def _layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        tensors = {name: value.double().numpy() for name, value in read_tensors(self.head).items()}
        stems = sorted({name.rpartition(".")[0] for name in tensors}, key=lambda stem: (len(stem), stem))
        layers = []
        for stem in stems:
            dot = f"{stem}." if stem else ""
            weight, bias = tensors.get(f"{dot}weight"), tensors.get(f"{dot}bias")
            if weight is None or weight.ndim != 2 or bias is None or bias.shape != weight.shape[:1]:
                raise CheckpointError(
                    f"{self.head}: {stem or 'the head'} is no linear layer; give an aesthetic head"
                )
            layers.append((weight, bias))
        if not layers or len(layers[-1][1]) != 1:
            raise CheckpointError(f"{self.head}: does not end in one number; give an aesthetic head")
        return layers
