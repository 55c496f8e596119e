"""Duplicates: the same bytes, the same pictures, or what looks alike; the best of a group is kept.

Two steps describe each clip by hashes and an embedding; three choices compare those of all clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field

from cogvideox.clip import Clip
from cogvideox.config import Config
from cogvideox.curation.step import CurationStep, View
from cogvideox.curation.table import PRINTS, ClipTable
from cogvideox.perception import ClipEmbedder, Embedder, PlainEmbedder
from cogvideox.perception.flow import opencv

BITS = 64
BLOCK = 1024  # rows compared with all others at a time


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


class ExactCopies(Config):
    """The same part of files with the same bytes: the first by name is kept."""

    kind: Literal["exact_copies"] = "exact_copies"

    def choose(self, table: ClipTable) -> None:
        """Drops copies with reason ``exact copy``."""
        groups = table.contents
        first: dict[int, int] = {}
        for row in np.flatnonzero(table.alive):
            kept = first.setdefault(int(groups[row]), int(row))
            if kept != row:
                table.drop(int(row), self.kind, "exact copy", f"of {table.id(kept)}")


class NearCopies(Config):
    """The same pictures, encoded or scaled otherwise: found by perceptual hashes of five frames."""

    kind: Literal["near_copies"] = "near_copies"
    distance: int = Field(6, ge=0, le=20, description="bits of 64 in which two frames may differ")
    frames: int = Field(4, ge=2, le=5, description="of 5 frames, so many must agree")

    def choose(self, table: ClipTable) -> None:
        """Drops all but the best of each group with reason ``near copy``."""
        rows = np.flatnonzero(table.alive & table.prints.any(axis=1))
        pairs = near_pairs(table.prints[rows], self.distance, self.frames)
        _keep_best(table, rows, pairs, self.kind, "near copy")


class LookAlikes(Config):
    """Clips whose embeddings point the same way."""

    kind: Literal["look_alikes"] = "look_alikes"
    similarity: float = Field(0.985, gt=0, le=1, description="cosine from which two clips are alike")

    def choose(self, table: ClipTable) -> None:
        """Drops all but the best of each group with reason ``look-alike``."""
        among = np.flatnonzero(table.alive[table.seen])
        pairs = alike_pairs(table.vectors, self.similarity, among)
        _keep_best(table, table.seen[among], pairs, self.kind, "look-alike")


def near_pairs(prints: np.ndarray, distance: int, agree: int) -> Iterator[tuple[int, int]]:
    """Pairs (a, b), a < b, of rows of ``uint64 [n, 5]`` of which ``agree`` hashes differ in at most ``distance`` bits.

    Of any 6 - agree hashes at least one must agree, and two hashes that differ in d bits are equal in one of d + 1
    bands: only rows that share a band there are compared, so the work grows far slower than n * n.
    """
    seen: set[tuple[int, int]] = set()
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for column in range(prints.shape[1] - agree + 1):
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            band = (prints[:, column] >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
            order = np.argsort(band, kind="stable")
            starts = np.flatnonzero(np.r_[True, np.diff(band[order].astype(np.int64)) != 0])
            for group in np.split(order, starts[1:]):
                for pair in _pairs_within(np.sort(group), prints, column, distance, agree):
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _pairs_within(
    group: np.ndarray, prints: np.ndarray, column: int, distance: int, agree: int
) -> Iterator[tuple[int, int]]:
    for place, row in enumerate(group[:-1]):
        others = group[place + 1 :]
        close = others[np.bitwise_count(prints[others, column] ^ prints[row, column]) <= distance]
        if len(close):
            bits = np.bitwise_count(prints[close] ^ prints[row])
            for other in close[(bits <= distance).sum(axis=1) >= agree]:
                yield int(row), int(other)


def alike_pairs(
    vectors: np.ndarray, similarity: float, among: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Pairs (a, b), a < b, of unit rows ``float32 [n, d]`` whose cosine is at least ``similarity``.

    Of the rows ``among`` [m] only, if given, and numbered within it: the vectors of all clips are not copied.
    """
    among = np.arange(len(vectors)) if among is None else among
    for start in range(0, len(among), BLOCK):
        block = vectors[among[start : start + BLOCK]]
        for other in range(start, len(among), BLOCK):
            cosine = block @ vectors[among[other : other + BLOCK]].T
            for a, b in zip(*np.nonzero(cosine >= similarity), strict=True):
                if start + a < other + b:
                    yield int(start + a), int(other + b)


def _keep_best(
    table: ClipTable, indices: np.ndarray, pairs: Iterator[tuple[int, int]], step: str, reason: str
) -> None:
    """Best first; a clip is dropped when one that is kept is its pair: chains do not swallow what is far apart."""
    near: dict[int, list[int]] = {}
    for a, b in pairs:
        near.setdefault(int(indices[a]), []).append(int(indices[b]))
        near.setdefault(int(indices[b]), []).append(int(indices[a]))

    def rank(index: int) -> tuple[float, int]:
        return -table.quality[index], index

    for row in sorted(near, key=rank):
        better = [other for other in near[row] if table.alive[other] and rank(other) < rank(row)]
        if better:
            table.drop(row, step, reason, f"of {table.id(min(better, key=rank))}")
