"""``Past``: what a network over time needs to know of the frames outside of the chunk it is given.

A causal convolution asks which frames came before its first one, a group normalisation over which frames it takes its
mean, and a change of length in time whether the first frame is the single first frame of a video. The start of a
video repeats its first frame (``StartOfVideo``); a video coded in chunks remembers the end of the last chunk
(``Remember``); a video split over ranks asks the left neighbour (``parallel.context``).
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.frames import Frames


class Past(Protocol):
    """The seam between the VAE and however its time axis is cut."""

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        """The ``frames`` input frames of ``conv`` that precede ``x``; None at the start of a video.

        Asked once per convolution and chunk. ``x.tail(frames)`` is what a neighbour to the right would need.
        """
        ...

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        """Called at the end of a chunk with the last input frames of ``conv``, a view of something larger."""
        ...

    def mean_over_clip(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        """Averages over the ``frames`` frames of this chunk, averaged over all chunks coded at the same time."""
        ...

    def has_single_first_frame(self, frames: int) -> bool:
        """Whether a chunk of ``frames`` frames begins with the first frame of a video of odd length.

        That frame has a latent frame of its own, where all others share one with their neighbours. Only the first
        chunk of a video may have an odd number of frames, so one process can tell it from the number.
        """
        ...


class StartOfVideo:
    """Nothing came before: the first frame is repeated. No state, so it suits training and recomputation.

    ``single_first``: whether the first frame has a latent of its own; None: if the number of frames is odd.
    """

    def __init__(self, single_first: bool | None = None) -> None:
        self.single_first = single_first

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        """None: the convolution repeats the first frame."""
        return None

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        """Keeps nothing: no chunk follows."""

    def mean_over_clip(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        """The averages themselves: no other chunk is coded at the same time."""
        return averages

    def has_single_first_frame(self, frames: int) -> bool:
        """As it was said, or else whether the number of frames is odd."""
        return frames % 2 == 1 if self.single_first is None else self.single_first


class Remember(StartOfVideo):
    """The end of the previous chunk, kept per convolution; before the first chunk, the start of a video.

    One object serves one pass over one video. It holds kernel - 1 frames per convolution, however long it is,
    and hands them out instead of keeping a copy. With ``is_last_chunk`` nothing more is kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tails: dict[nn.Module, Tensor] = {}
        self.is_last_chunk = False

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"] | None:
        """The last frames of the chunk before, handed out once; None for the first chunk."""
        return self.tails.pop(conv, None)

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        """A copy of the last frames, for the next chunk."""
        if not self.is_last_chunk:
            self.tails[conv] = tail.clone()  # a view would keep the whole chunk alive
