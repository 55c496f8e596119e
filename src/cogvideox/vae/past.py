"""What came before my first frame?

A causal convolution over time asks this one question, and a group normalisation one more: over which frames
do I take my mean? A ``Past`` answers both. The start of a video repeats its first frame; a video coded in
chunks remembers the end of the last chunk; a video split over ranks asks the left neighbour (that Past lives
in the parallel room). Whoever cuts time gives an odd number of frames to the first piece only: an odd piece
treats its first frame as the first of the video.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Past(Protocol):
    """The seam between the VAE and however its time axis is cut."""

    def before(
        self, conv: nn.Module, x: Float[Tensor, "b c t h w"], frames: int
    ) -> Float[Tensor, "b c f h w"]:
        """The ``frames`` input frames of ``conv`` before ``x``; asked once per convolution and piece."""
        ...

    def normalise(self, norm: nn.GroupNorm, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Group normalisation of ``x``: over this piece alone, or over all pieces coded at the same time."""
        ...


class StartOfVideo:
    """Nothing came before: the first frame is repeated. No state, so it suits training and recomputation."""

    def before(
        self, conv: nn.Module, x: Float[Tensor, "b c t h w"], frames: int
    ) -> Float[Tensor, "b c f h w"]:
        return x[:, :, :1].expand(-1, -1, frames, -1, -1)

    def normalise(self, norm: nn.GroupNorm, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        return group_norm(norm, x)


class Remember(StartOfVideo):
    """The end of the previous piece, kept per convolution; before the first piece, the start of a video.

    One object serves one pass over one video. It holds kernel - 1 frames per convolution, however long it is.
    """

    def __init__(self) -> None:
        self.kept: dict[nn.Module, Tensor] = {}

    def before(
        self, conv: nn.Module, x: Float[Tensor, "b c t h w"], frames: int
    ) -> Float[Tensor, "b c f h w"]:
        past = self.kept.get(conv)
        if past is None:
            past = super().before(conv, x, frames)
        # a piece shorter than the kernel still hands on some of what it was given
        tail = x[:, :, -frames:] if x.shape[2] >= frames else torch.cat([past, x], dim=2)[:, :, -frames:]
        self.kept[conv] = tail.clone()  # a view would keep the whole piece alive
        return past


def group_norm(norm: nn.GroupNorm, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """Group normalisation over this piece. Torch takes mean and variance of half precision in float32."""
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
