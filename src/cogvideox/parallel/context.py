"""Context parallelism of the video autoencoder (section 2.1, Fig. 4b): each rank codes a slice of time.

Every causal convolution hands its last k - 1 input frames to the right neighbour, and the gradient comes back; group
normalisation takes its mean over the whole clip. So the ranks together compute what one process computes, forwards
and backwards: the sum of the ranks' losses is the loss of the whole clip, the sum of their gradients its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import FrameError
from cogvideox.parallel.exchange import Group, all_gather_cat, all_reduce, from_left
from cogvideox.vae import VAE, VAEConfig
from cogvideox.vae.frames import Frames
from cogvideox.vae.vae import Gaussian


class LeftNeighbour:
    """The Past of a rank's slice of time: the left neighbour's last frames, statistics of the whole clip.

    ``single_first``: the clip has an odd number of frames; its single first frame is the first rank's.
    """

    def __init__(self, group: Group, single_first: bool) -> None:
        self.group, self.is_first_rank = group, dist.get_rank(group) == 0
        self.single_first = single_first and self.is_first_rank

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"]:
        """The last frames of the left neighbour; on the first rank the first frame, repeated."""
        start = x.first().expand(-1, -1, frames, -1, -1) if self.is_first_rank else None
        return from_left(x.tail(frames), start, frames, self.group)

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        """Keeps nothing: the right neighbour was sent its frames in ``before``."""

    def mean_over_clip(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        """The mean over the frames of all ranks."""
        count = averages.new_full((len(averages), 1), frames)
        total = all_reduce(torch.cat([averages * frames, count], dim=1), self.group)
        return total[:, :-1] / total[:, -1:]

    def has_single_first_frame(self, frames: int) -> bool:
        """Whether this slice begins with the clip's single first frame."""
        return self.single_first


@dataclass(frozen=True)
class TimeSplit:
    """Which frames of a clip each rank of a group codes: whole groups of frames that share a latent frame.

    The single first frame is the first rank's, beside its share. Any number of ranks up to that of latent frames.
    """

    frames: int
    ratio: int
    group: Group

    @classmethod
    def of(cls, frames: int, config: VAEConfig, group: Group) -> TimeSplit:
        """The split of ``frames`` pixel frames. Raises FrameError when they do not divide or are too few."""
        ratio, ranks = config.temporal_compression_ratio, dist.get_world_size(group)
        rest = frames % ratio if ratio > 1 else frames % 2
        if rest not in (0, 1) or config.pixel_frames(config.latent_frames(frames)) != frames:
            raise FrameError(
                f"frames {frames}: to be split over ranks they must be {2 * ratio}n + 1 or {2 * ratio}n"
            )
        if config.latent_frames(frames) < ranks:
            raise FrameError(
                f"frames {frames} over {ranks} ranks: there are {config.latent_frames(frames)} latent frames and "
                "each rank needs one; use fewer ranks or longer clips"
            )
        return cls(frames, ratio, group)

    @property
    def single_first(self) -> bool:
        """Whether the first frame has a latent frame of its own: of an odd number of frames."""
        return self.frames % 2 == 1

    @cached_property
    def latent_lengths(self) -> tuple[int, ...]:
        """Latent frames of each rank."""
        ranks, single = dist.get_world_size(self.group), int(self.single_first)
        shared = (self.frames - single) // self.ratio
        each, more = divmod(shared, ranks)
        sizes = [each + (rank >= ranks - more) for rank in range(ranks)]
        return (sizes[0] + single, *sizes[1:])

    @cached_property
    def pixel_lengths(self) -> tuple[int, ...]:
        """Pixel frames of each rank."""
        first, *rest = (latents * self.ratio for latents in self.latent_lengths)
        return (first - (self.ratio - 1) * self.single_first, *rest)

    def pixels(self, whole: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c _ h w"]:
        """This rank's slice of a clip."""
        return whole.split(self.pixel_lengths, dim=2)[dist.get_rank(self.group)]

    def latents(self, whole: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c _ h w"]:
        """This rank's slice of a clip's latents."""
        return whole.split(self.latent_lengths, dim=2)[dist.get_rank(self.group)]

    def whole_clip(self, local: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c f h w"]:
        """The pixels of all ranks; gradients return to the ranks that own them."""
        return all_gather_cat(local, self.pixel_lengths, 2, self.group)

    def whole_latents(self, local: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c t h w"]:
        """The latents of all ranks; gradients return to the ranks that own them."""
        return all_gather_cat(local, self.latent_lengths, 2, self.group)

    def encode(self, vae: VAE, local: Float[Tensor, "b c _ h w"]) -> Gaussian:
        """The distribution of this rank's latents from its pixels: a slice of ``vae.encode(whole, coding="whole")``."""
        return vae.encode(local, past=LeftNeighbour(self.group, self.single_first))

    def decode(self, vae: VAE, local: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c _ h w"]:
        """This rank's pixels from its latents: a slice of ``vae.decode(whole, coding="whole")``."""
        return vae.decode(local, past=LeftNeighbour(self.group, self.single_first))
