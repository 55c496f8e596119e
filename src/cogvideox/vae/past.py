"""What came before my first frame?

A causal convolution over time asks this one question, and a group normalisation one more: over which frames
do I take my mean? A ``Past`` answers both. The start of a video repeats its first frame; a video coded in
chunks remembers the end of the last chunk; a video split over ranks asks the left neighbour (that Past lives
in the parallel room). Where time is halved or doubled there is a third: is my first frame the lone first frame
of a video? Whoever cuts a video for one process gives an odd number of frames to the first piece only, so there
an odd piece is one that begins with it.
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.frames import Frames


class Past(Protocol):
    """The seam between the VAE and however its time axis is cut."""

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        """The ``frames`` input frames of ``conv`` before ``x``, or None where a video starts.

        Asked once per convolution and piece. ``x.tail(frames)`` is what a neighbour to the right would need.
        """
        ...

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        """The last inputs of ``conv``, told at the end of a piece; a view of something larger."""
        ...

    def together(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        """Averages over this piece of ``frames`` frames, averaged over all pieces coded at the same time."""
        ...

    def alone(self, frames: int) -> bool:
        """Whether the first of a piece of ``frames`` frames stands for itself, its others for pairs or more."""
        ...


class StartOfVideo:
    """Nothing came before: the first frame is repeated. No state, so it suits training and recomputation."""

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        return None

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        return None

    def together(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        return averages

    def alone(self, frames: int) -> bool:
        return frames % 2 == 1


class Remember(StartOfVideo):
    """The end of the previous piece, kept per convolution; before the first piece, the start of a video.

    One object serves one pass over one video. It holds kernel - 1 frames per convolution, however long it is,
    and hands them out instead of keeping a copy. ``ends``: the piece is the last, and nothing is kept of it.
    """

    def __init__(self) -> None:
        self.kept: dict[nn.Module, Tensor] = {}
        self.ends = False

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        return self.kept.pop(conv, None)

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        if not self.ends:
            self.kept[conv] = tail.clone()  # a view would keep the whole piece alive
