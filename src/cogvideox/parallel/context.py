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
from cogvideox.parallel.exchange import Group, from_left, joined, summed
from cogvideox.vae import VAE, VAEConfig
from cogvideox.vae.frames import Frames
from cogvideox.vae.vae import Gaussian


class Neighbour:
    """The Past of a slice of time: the left neighbour's last frames, statistics of the whole clip.

    ``lone``: the video's first frame stands for itself (an odd number of frames); it is the first rank's.
    """

    def __init__(self, group: Group, lone: bool) -> None:
        self.group, self.lone = group, lone and dist.get_rank(group) == 0
        self.first = dist.get_rank(group) == 0

    def before(self, conv: nn.Module, x: Frames, frames: int) -> Float[Tensor, "b c f h w"]:
        start = None
        if self.first:
            start = x.read(0, x.parts[0][:, :, :1]).expand(-1, -1, frames, -1, -1)
        return from_left(x.tail(frames), start, frames, self.group)

    def keep(self, conv: nn.Module, tail: Float[Tensor, "b c f h w"]) -> None:
        return None

    def together(self, averages: Float[Tensor, "b g"], frames: int) -> Float[Tensor, "b g"]:
        count = averages.new_full((len(averages), 1), frames)
        total = summed(torch.cat([averages * frames, count], dim=1), self.group)
        return total[:, :-1] / total[:, -1:]

    def alone(self, frames: int) -> bool:
        return self.lone


@dataclass(frozen=True)
class TimeSplit:
    """Which frames of a clip each rank of a group codes: whole groups of frames that share a latent frame.

    The lone first frame is the first rank's, beside its share. Any number of ranks up to that of latent frames.
    """

    frames: int
    ratio: int
    group: Group

    @classmethod
    def of(cls, frames: int, config: VAEConfig, group: Group) -> TimeSplit:
        """The split of ``frames`` pixel frames. Raises FrameError when they do not divide or are too few."""
        ratio, ranks = config.temporal_compression_ratio, dist.get_world_size(group)
        lone = frames % ratio if ratio > 1 else frames % 2
        if lone not in (0, 1) or config.pixel_frames(config.latent_frames(frames)) != frames:
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
    def lone(self) -> bool:
        """Whether the first frame stands for itself."""
        return self.frames % 2 == 1

    @cached_property
    def latent_lengths(self) -> tuple[int, ...]:
        """Latent frames of each rank."""
        ranks, lone = dist.get_world_size(self.group), int(self.lone)
        shared = (self.frames - lone) // self.ratio
        each, more = divmod(shared, ranks)
        sizes = [each + (rank >= ranks - more) for rank in range(ranks)]
        return (sizes[0] + lone, *sizes[1:])

    @cached_property
    def pixel_lengths(self) -> tuple[int, ...]:
        """Pixel frames of each rank."""
        first, *rest = (latents * self.ratio for latents in self.latent_lengths)
        return (first - (self.ratio - 1) * self.lone, *rest)

    def pixels(self, whole: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c _ h w"]:
        """My slice of a clip."""
        return whole.split(self.pixel_lengths, dim=2)[dist.get_rank(self.group)]

    def latents(self, whole: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c _ h w"]:
        """My slice of a clip's latents."""
        return whole.split(self.latent_lengths, dim=2)[dist.get_rank(self.group)]

    def whole_clip(self, mine: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c f h w"]:
        """Everybody's pixels; gradients return to the owners."""
        return joined(mine, self.pixel_lengths, 2, self.group)

    def whole_latents(self, mine: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c t h w"]:
        """Everybody's latents; gradients return to the owners."""
        return joined(mine, self.latent_lengths, 2, self.group)

    def encode(self, vae: VAE, mine: Float[Tensor, "b c _ h w"]) -> Gaussian:
        """My latents' distribution from my pixels: a slice of ``vae.encode(whole, coding="whole")``."""
        return vae.encode(mine, past=Neighbour(self.group, self.lone))

    def decode(self, vae: VAE, mine: Float[Tensor, "b c _ h w"]) -> Float[Tensor, "b c _ h w"]:
        """My pixels from my latents: a slice of ``vae.decode(whole, coding="whole")``."""
        return vae.decode(mine, past=Neighbour(self.group, self.lone))
