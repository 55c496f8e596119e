"""Losses of the autoencoder: L1 + LPIPS + KL, and from a chosen step a GAN loss (section 2.1).

The paper gives neither weights nor steps, so all of them are settings. A squared error may be added (the first version
of the paper had it instead of L1). Of the discriminator the paper says only that it is 3D: ``PatchCritic`` judges
overlapping patches of time and space (PatchGAN in three dimensions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from cogvideox.config import Config

Perceptual = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]
Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes that hold slices of a clip."""


def identity(value: Tensor) -> Tensor:
    """The ``Total`` of one process: the value itself."""
    return value


def perceptual_loss(
    metric: Perceptual,
    decoded: Float[Tensor, "b 3 f h w"],
    pixels: Float[Tensor, "b 3 f h w"],
    frames: Tensor,
) -> Float[Tensor, ""]:
    """LPIPS of one frame of each clip (``frames`` [b]: its index), averaged over the clips."""
    clips = torch.arange(len(decoded), device=decoded.device)
    return metric(decoded[clips, :, frames].float(), pixels[clips, :, frames].float()).mean()


def kl_loss(mean: Tensor, logvar: Tensor) -> Float[Tensor, ""]:
    """KL divergence of the latents' Gaussian from the standard normal, averaged over latent values."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).float().mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """Hinge loss of the discriminator: zero when real patches are above 1 and decoded ones below -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last: Tensor, total: Total = identity
) -> Float[Tensor, ""]:
    """Weight of the GAN loss: makes both gradients at the decoder's ``last`` weights equally long (Esser et al. 2021).

    |d reconstruction| / (|d adversarial| + 1e-4), between 0 and 1e4, without a gradient. ``total`` sums
    gradients where several processes hold slices of the clip.
    """
    norms = [
        total(torch.autograd.grad(loss, last, retain_graph=True)[0].float()).norm()
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()


@dataclass(frozen=True)
class Adversarial:
    """GAN losses of one batch: the ``decoder``'s, its adaptive ``weight``, and the ``critic``'s (discriminator)."""

    weight: Float[Tensor, ""]
    decoder: Float[Tensor, ""]
    critic: Float[Tensor, ""]


def adversarial_losses(
    critic: nn.Module,
    decoded: Float[Tensor, "b 3 f h w"],
    pixels: Float[Tensor, "b 3 f h w"],
    reconstruction: Float[Tensor, ""],
    last: Tensor,
    **ranks: Any,
) -> Adversarial:
    """The decoder's loss -mean D(decoded), its adaptive weight, and the critic's hinge loss, kept apart.

    The decoder's loss gives the critic's weights no gradient, the critic's gives the decoder none: one backward
    pass of their sum serves both.
    """
    weights = {name: value.detach() for name, value in critic.named_parameters()}
    decoder = -torch.func.functional_call(critic, weights, (decoded,)).float().mean()
    weight = (
        adaptive_weight(reconstruction, decoder, last, **ranks) if decoded.requires_grad else decoder.detach()
    )
    return Adversarial(weight, decoder, hinge_loss(critic(pixels), critic(decoded.detach())))


class CriticConfig(Config):
    """The size of the discriminator."""

    width: int = Field(64, gt=0, description="channels after the first convolution; doubled at every stage")
    most: int = Field(512, gt=0, description="channels of a stage at most")
    stages: int = Field(3, ge=1, description="times that height and width are halved")
    time_stages: int = Field(2, ge=0, description="of these, how many halve the frames too (rounded up)")


class PatchCritic(nn.Module):
    """Video to one number per patch; large means it looks real. [b, 3, f, h, w] -> [b, 1, f', h', w'].

    It works for any number of frames: the first and the last are repeated as padding, as in the autoencoder.
    Norms are over channels only, so that the number of a patch depends on its own pixels alone.
    """

    def __init__(self, config: CriticConfig, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.first = nn.Conv3d(channels, width, 3, padding=(0, 1, 1))
        self.stages = nn.ModuleList()
        for stage in range(config.stages):
            wider = min(2 * width, config.most)
            self.stages.append(CriticStage(width, wider, halve_time=stage < config.time_stages))
            width = wider
        self.verdict = nn.Conv3d(width, 1, 3, padding=(0, 1, 1))

    def forward(self, pixels: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 1 f2 h2 w2"]:
        """One number per patch; large means it looks real."""
        x = F.leaky_relu(self.first(longer(pixels)), 0.1)
        for stage in self.stages:
            x = stage(x)
        return self.verdict(longer(x))


class CriticStage(nn.Module):
    """Two convolutions and a shortcut; height and width are halved, the frames too with ``halve_time``."""

    def __init__(self, width: int, wider: int, halve_time: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=(0, 1, 1))
        self.conv2 = nn.Conv3d(width, wider, 3, padding=(0, 1, 1))
        self.shortcut = nn.Conv3d(width, wider, 1, bias=False)
        self.stride = (2 if halve_time else 1, 2, 2)

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f2 h2 w2"]:
        """The stage's features at half the height and width."""
        y = F.leaky_relu(self.conv1(longer(self._normalised(x))), 0.1)
        y = F.leaky_relu(self.conv2(longer(y)), 0.1)
        both = y + self.shortcut(x)
        if both.shape[2] % self.stride[0]:
            both = torch.cat([both, both[:, :, -1:]], dim=2)
        return F.avg_pool3d(both, self.stride) * 2**-0.5

    def _normalised(self, x: Tensor) -> Tensor:
        """Normalised over the channels of each position, so that patches stay independent."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def longer(x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
    """The frames with the first and the last repeated once, as padding in time."""
    return torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
