"""Hashes: short descriptions by which copies, near copies and look-alikes are found later (duplicates.py)."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field

from cogvideox.clip import Clip
from cogvideox.curation.step import CurationStep
from cogvideox.curation.view import View
from cogvideox.perception import ClipEmbedder, Embedder, PlainEmbedder
from cogvideox.perception.flow import opencv

PRINTS = 5


class Hashes(CurationStep):
    """A 64-bit perceptual hash of five frames."""

    kind: Literal["prints"] = "prints"

    def measure(self, clip: Clip, view: View) -> Clip:
        """Sets ``clip.prints``: hashes at 10, 30, 50, 70 and 90 % of the clip."""
        places = ((np.arange(PRINTS) + 0.5) / PRINTS * len(view.pictures)).astype(int)
        return clip.model_copy(update={"prints": tuple(f"{phash(view.grey[n]):016x}" for n in places)})


class EmbeddingStep(CurationStep):
    """A unit vector of what is seen: CLIP from your folder, or the plain one that ships."""

    kind: Literal["embedding"] = "embedding"
    clip: str | None = Field(None, description="folder of a CLIP model; without it colours and edges")
    pictures: int = Field(3, gt=0, description="pictures of a clip whose vectors are averaged")

    def measure(self, clip: Clip, view: View) -> Clip:
        """Sets ``clip.embedding`` (four digits) and ``clip.embedder``."""
        embed = embedder(self.clip)
        mean = embed(view.pictures[view.spread(self.pictures)]).mean(axis=0)
        mean /= max(float(np.linalg.norm(mean)), 1e-8)
        vector = tuple(round(float(value), 4) for value in mean)
        return clip.model_copy(update={"embedding": vector, "embedder": embed.name})


@cache
def embedder(folder: str | None) -> Embedder:
    """The embedder for this folder, loaded once a process."""
    return ClipEmbedder(folder) if folder else PlainEmbedder()


def phash(grey: np.ndarray) -> int:
    """64 bits of ``uint8 [h, w]``: signs of the lowest 8x8 cosine waves about their median (Zauner 2010)."""
    cv2 = opencv()
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = cv2.dct(small)[:8, :8].ravel()
    bits = waves > np.median(waves[1:])
    return int(np.packbits(bits).tobytes().hex(), 16)
