"""What the autoencoder is asked to minimise: L1 + LPIPS + KL, and from a chosen step a GAN loss (section 2.1).

The paper gives neither weights nor steps, so all of them are settings. A squared error may be added (the first version
of the paper had it in the place of L1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Perceptual = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]
Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes that hold slices of a clip."""


def identity(value: Tensor) -> Tensor:
    """The ``Total`` of one process: the value itself."""
    return value


def perceptual_loss(
    metric: Perceptual,
    decoded: Float[Tensor, "b 3 f h w"],
    pixels: Float[Tensor, "b 3 f h w"],
    frames: Tensor,
) -> Float[Tensor, ""]:
    """LPIPS of one frame of each clip (``frames``: its index in each, [b]), averaged over the clips."""
    clips = torch.arange(len(decoded), device=decoded.device)
    return metric(decoded[clips, :, frames].float(), pixels[clips, :, frames].float()).mean()


def kl_loss(mean: Tensor, logvar: Tensor) -> Float[Tensor, ""]:
    """Divergence from the standard normal, averaged over latent values."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).float().mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """What the critic minimises: real patches above 1, decoded ones below -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last: Tensor, total: Total = identity
) -> Float[Tensor, ""]:
    """The weight with which both losses pull equally at the decoder's last weights (Esser et al. 2021, Eq. 7).

    |d reconstruction| / (|d adversarial| + 1e-4), between 0 and 1e4, without a gradient. ``total`` adds up
    gradients where several processes hold parts of the clip.
    """
    norms = [
        total(torch.autograd.grad(loss, last, retain_graph=True)[0].float()).norm()
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()


@dataclass(frozen=True)
class Adversarial:
    """Both sides of the GAN loss for one batch."""

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

    The decoder's loss gives the critic's weights no gradient, the critic's gives the decoder none: their sum can
    go backwards at once.
    """
    weights = {name: value.detach() for name, value in critic.named_parameters()}
    decoder = -torch.func.functional_call(critic, weights, (decoded,)).float().mean()
    weight = (
        adaptive_weight(reconstruction, decoder, last, **ranks) if decoded.requires_grad else decoder.detach()
    )
    return Adversarial(weight, decoder, hinge_loss(critic(pixels), critic(decoded.detach())))
