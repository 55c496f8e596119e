"""What every token of a row is: which clip it belongs to, which modality it is, where in the clip it stands.

A row holds one clip after another, each as ``[text | video]``; video tokens stand in (t, h, w) raster order.
A plain batch is the one-clip case, a packed row (the paper's frame pack) holds many clips. Each decision of
the architecture reads one of the answers: attention the clip, experts the modality, positions the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

VIDEO, TEXT = 0, 1
"""Modality numbers, in the order of the released adaLN chunks: three for video, then three for text."""


class TokenGrid(NamedTuple):
    """Patches of one clip along time, height and width."""

    t: int
    h: int
    w: int

    @property
    def tokens(self) -> int:
        return self.t * self.h * self.w


class ClipTokens(NamedTuple):
    """The tokens of one clip: ``words`` of text, then the patches of ``grid``."""

    words: int
    grid: TokenGrid

    @property
    def tokens(self) -> int:
        return self.words + self.grid.tokens


class Segment(NamedTuple):
    """A run of neighbouring tokens that share clip and modality."""

    clip: int
    modality: int
    length: int


@dataclass(frozen=True)
class Layout:
    """The clips of one row, first to last; every row of a batch has the same layout."""

    clips: tuple[ClipTokens, ...]
    segments: tuple[Segment, ...] = field(init=False, repr=False, compare=False)
    """Text and video of each clip, in row order."""
    lengths: list[int] = field(init=False, repr=False, compare=False)
    """Tokens of each segment: what ``Tensor.split`` wants."""
    clip_lengths: list[int] = field(init=False, repr=False, compare=False)
    """Tokens of each clip."""

    def __post_init__(self) -> None:
        # made now and not when asked for: a compiler cannot look into a cached property
        object.__setattr__(self, "segments", self._segments())
        object.__setattr__(self, "lengths", [segment.length for segment in self.segments])
        object.__setattr__(self, "clip_lengths", [clip.tokens for clip in self.clips])

    def _segments(self) -> tuple[Segment, ...]:
        return tuple(
            Segment(index, modality, length)
            for index, clip in enumerate(self.clips)
            for modality, length in ((TEXT, clip.words), (VIDEO, clip.grid.tokens))
        )

    @classmethod
    def plain(cls, words: int, grid: TokenGrid) -> Layout:
        """One clip in each row."""
        return cls((ClipTokens(words, grid),))

    @classmethod
    def packed(cls, words: Sequence[int], grids: Sequence[TokenGrid]) -> Layout:
        """Many clips in a row."""
        return cls(tuple(ClipTokens(length, grid) for length, grid in zip(words, grids, strict=True)))

    @property
    def is_plain(self) -> bool:
        return len(self.clips) == 1

    @property
    def tokens(self) -> int:
        return sum(clip.tokens for clip in self.clips)

    def clip(self) -> Int[Tensor, " n"]:
        """The clip of every token."""
        return torch.arange(len(self.clips)).repeat_interleave(torch.tensor(self.clip_lengths))

    def modality(self) -> Int[Tensor, " n"]:
        """VIDEO or TEXT for every token."""
        modalities = torch.tensor([segment.modality for segment in self.segments])
        return modalities.repeat_interleave(torch.tensor(self.lengths))

    def place(self) -> Int[Tensor, "n 3"]:
        """(t, h, w) of every video token inside its own clip; -1 for text, which stands nowhere."""
        places = []
        for words, grid in self.clips:
            axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
            places += [torch.full((words, 3), -1), torch.stack(axes, -1).reshape(-1, 3)]
        return torch.cat(places)
