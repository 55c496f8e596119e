"""``Layout``: of every token of a sequence the clip it belongs to, its modality, and its position in the clip.

A sequence holds one clip after another, each as ``[text | video]``; video tokens are in (t, h, w) raster order.
A plain batch is the one-clip case, a packed sequence (the paper's frame pack) holds many clips. Each decision of
the architecture reads one of the answers: attention the clip, experts the modality, rotary embeddings the position.
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
        """How many patches these are."""
        return self.t * self.h * self.w


class ClipTokens(NamedTuple):
    """The tokens of one clip: ``text_len`` of text, then the patches of ``grid``."""

    text_len: int
    grid: TokenGrid

    @property
    def tokens(self) -> int:
        """Text and video tokens together."""
        return self.text_len + self.grid.tokens


class Segment(NamedTuple):
    """A run of neighbouring tokens that share clip and modality."""

    clip: int
    modality: int
    length: int


@dataclass(frozen=True)
class Layout:
    """The clips of one sequence, first to last; every sequence of a batch has the same layout."""

    clips: tuple[ClipTokens, ...]
    segments: tuple[Segment, ...] = field(init=False, repr=False, compare=False)
    """Text and video of each clip, in the order of the sequence."""
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
            for modality, length in ((TEXT, clip.text_len), (VIDEO, clip.grid.tokens))
        )

    @classmethod
    def plain(cls, text_len: int, grid: TokenGrid) -> Layout:
        """One clip in each sequence of the batch."""
        return cls((ClipTokens(text_len, grid),))

    @classmethod
    def packed(cls, text_len: Sequence[int], grids: Sequence[TokenGrid]) -> Layout:
        """Many clips in one sequence."""
        return cls(tuple(ClipTokens(length, grid) for length, grid in zip(text_len, grids, strict=True)))

    @property
    def is_plain(self) -> bool:
        """Whether the sequence holds one clip only."""
        return len(self.clips) == 1

    @property
    def tokens(self) -> int:
        """Tokens of the whole sequence."""
        return sum(clip.tokens for clip in self.clips)

    def clip(self) -> Int[Tensor, " n"]:
        """The clip of every token."""
        return torch.arange(len(self.clips)).repeat_interleave(torch.tensor(self.clip_lengths))

    def modality(self) -> Int[Tensor, " n"]:
        """VIDEO or TEXT for every token."""
        modalities = torch.tensor([segment.modality for segment in self.segments])
        return modalities.repeat_interleave(torch.tensor(self.lengths))

    def position(self) -> Int[Tensor, "n 3"]:
        """(t, h, w) of every video token inside its own clip; -1 for text, which has none."""
        positions = []
        for text_len, grid in self.clips:
            axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
            positions += [torch.full((text_len, 3), -1), torch.stack(axes, -1).reshape(-1, 3)]
        return torch.cat(positions)
