"""ClipTable: what choices need to know about all clips, in columns of numbers: 100,000 clips fit in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from cogvideox.clip import Clip, Dropped

PRINTS = 5  # perceptual hashes of a clip


class ClipTable:
    """Rows are clips in their final order; a row that was dropped while measuring is not ``alive`` from the start.

    ``prints`` uint64 [n, 5], all zero when there are none; ``quality`` float64 [n]: more pixels first, then more frames
    per second; ``seen`` int64 [m]: the rows that have an embedding, ``vectors`` float32 [m, d].
    """

    def __init__(self, clips: Iterable[Clip], vectors: bool = True) -> None:
        self._drops: dict[int, tuple[str, str, str]] = {}  # step, reason, detail: a model each would be heavy
        self._ids = bytearray()
        self._sources = bytearray()  # 16 of the 64 digits of the file's hash, as bytes
        self._columns: dict[str, array] = {}
        self._row_numbers: dict[str, array] = {}
        self._alive = bytearray()
        self._prints = array("Q")
        self._quality = array("d")
        self._spans = array("q")
        self._vectors = array("f") if vectors else None
        self._seen = array("q")
        self.embedder = ""
        for clip in clips:
            self._add(clip)
        self.alive = np.frombuffer(self._alive, np.uint8).astype(bool)
        self.prints = np.frombuffer(self._prints, np.uint64).reshape(-1, PRINTS)
        self.quality = np.frombuffer(self._quality)
        self.seen = np.frombuffer(self._seen, np.int64)
        dim = -1 if self._seen else 0
        self.vectors = np.frombuffer(self._vectors or b"", np.float32).reshape(len(self._seen), dim)

    def _add(self, clip: Clip) -> None:
        row = len(self._alive)
        self._ids += bytes.fromhex(clip.id)
        self._sources += bytes.fromhex(clip.source.sha256[:32] or "0" * 32)
        self._alive.append(clip.dropped is None)
        for name, value in clip.scores.items():
            if value is not None:
                self._columns.setdefault(name, array("d")).append(value)
                self._row_numbers.setdefault(name, array("I")).append(row)
        hashes = [int(one, 16) for one in clip.prints] or [0] * PRINTS
        self._prints.extend(hashes)
        self._quality.append(clip.width * clip.height + min(clip.source.fps, 120) / 128)
        self._spans.extend((clip.span.first, clip.span.stop) if clip.span else (-1, -1))
        if self._vectors is not None and clip.embedding:
            self.embedder = self.embedder or clip.embedder
            if clip.embedder == self.embedder:
                self._vectors.extend(clip.embedding)
                self._seen.append(row)

    def __len__(self) -> int:
        return len(self._alive)

    def id(self, index: int) -> str:
        """The id of the clip in this row of the table."""
        return self._ids[12 * index : 12 * index + 12].hex()

    def scores(self, name: str) -> np.ndarray:
        """``float64 [n]``, NaN where a clip has no such score."""
        column = np.full(len(self), np.nan)
        if name in self._columns:
            column[np.frombuffer(self._row_numbers[name], np.uint32)] = np.frombuffer(self._columns[name])
        return column

    @property
    def names(self) -> list[str]:
        """Names of the scores there are."""
        return sorted(self._columns)

    @property
    def contents(self) -> np.ndarray:
        """``[n]`` of equal values for the same part of equal files."""
        kinds = np.frombuffer(bytes(self._sources), "V16")
        spans = np.frombuffer(self._spans, np.int64).reshape(-1, 2)
        _, numbers = np.unique(kinds, return_inverse=True)
        _, groups = np.unique(np.column_stack([numbers.reshape(-1), spans]), axis=0, return_inverse=True)
        return groups.reshape(-1)

    def drop(self, index: int, step: str, reason: str, detail: str = "") -> None:
        """Drop the clip in this row; one that is dropped already keeps its first reason."""
        if self.alive[index]:
            self.alive[index] = False
            self._drops[index] = (step, reason, detail)

    def dropped(self, index: int) -> Dropped | None:
        """Why a choice dropped the clip in this row; None for one that it kept, or that was dropped before."""
        if index not in self._drops:
            return None
        step, reason, detail = self._drops[index]
        return Dropped(step=step, reason=reason, detail=detail)
