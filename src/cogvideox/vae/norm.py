"""Group normalisation of a piece of video, and its modulation by the latents: as a scale and a shift.

The statistics are read once, frame by frame; what they and the latents do to the frames is one factor and one
summand per channel (and per latent position), left to ``Frames`` to apply.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.conv import CausalConv3d, each_twice
from cogvideox.vae.frames import Frames
from cogvideox.vae.past import Past


class SpatialNorm(nn.Module):
    """Group normalisation whose scale and shift come from the latents, resized by nearest neighbour."""

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_y = CausalConv3d(latent_channels, channels, 1, 1)
        self.conv_b = CausalConv3d(latent_channels, channels, 1, 1)

    def modulated(
        self,
        z: Float[Tensor, "b z t h w"],
        scale: Float[Tensor, "b c 1 1 1"],
        shift: Float[Tensor, "b c 1 1 1"],
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b c t h w"]]:
        """Scale and shift after modulation by ``z``, at its size: 1x1x1 convolutions commute with nearest resizing.

        x · y(z) + s(z) of a normalised x is x · (scale y(z)) + (shift y(z) + s(z)): what the normalisation multiplies
        is multiplied into the weights, which are small.
        """
        y, s = self.conv_y.conv, self.conv_b.conv
        scale, shift = scale[..., 0, 0], shift[..., 0, 0]  # [b, c, 1]
        y_weight, y_bias = y.weight.flatten(1).float(), y.bias.float()
        s_weight, s_bias = s.weight.flatten(1).float(), s.bias.float()
        weight = torch.cat([scale * y_weight, torch.addcmul(s_weight, shift, y_weight)], dim=1)
        bias = torch.cat([scale[..., 0] * y_bias, torch.addcmul(s_bias, shift[..., 0], y_bias)], dim=1)
        both = torch.baddbmm(bias[..., None], weight, z.float().flatten(2)).float()
        factor, summand = both.unflatten(2, z.shape[2:]).chunk(2, dim=1)
        return factor, summand


def activated(
    norm: nn.GroupNorm | SpatialNorm,
    parts: list[Float[Tensor, "b c _ h w"]],
    past: Past,
    z: Float[Tensor, "b z tz hz wz"] | None = None,
    twice: bool = False,
) -> Frames:
    """The parts of a piece, normalised and through SiLU when they are read. With ``z`` modulated by it.

    ``twice``: every frame is shown twice (a lone first one once), which the statistics count.
    """
    group_norm = norm.norm_layer if isinstance(norm, SpatialNorm) else norm
    scale, shift = _normalisation(group_norm, parts, past, twice)
    if isinstance(norm, SpatialNorm) and z is not None:
        scale, shift = norm.modulated(z, scale, shift)
    return Frames(parts, scale, shift, past.alone(sum(part.shape[2] for part in parts)))


def _normalisation(
    norm: nn.GroupNorm, parts: list[Tensor], past: Past, twice: bool
) -> tuple[Float[Tensor, "b c 1 1 1"], Float[Tensor, "b c 1 1 1"]]:
    found = [moments(part) for part in parts]
    means, variances = (torch.cat(rows, dim=2) for rows in zip(*found, strict=True))  # [b, c, t]
    if twice:
        alone = past.alone(means.shape[2])
        means, variances = each_twice(means, alone), each_twice(variances, alone)
    means, variances = (rows.unflatten(1, (norm.num_groups, -1)) for rows in (means, variances))
    frames = means.shape[3]
    mean = past.together(means.mean((2, 3)), frames)  # [b, g]
    spread = variances + (means - mean[:, :, None, None]) ** 2
    deviation = (past.together(spread.mean((2, 3)), frames) + norm.eps).rsqrt()
    weight, bias = norm.weight.float(), norm.bias.float()
    scale = weight * deviation.repeat_interleave(len(weight) // norm.num_groups, dim=1)
    shift = bias - scale * mean.repeat_interleave(len(weight) // norm.num_groups, dim=1)
    return scale[:, :, None, None, None], shift[:, :, None, None, None]


def moments(x: Float[Tensor, "b c t h w"]) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
    """Mean and variance of every channel of every frame, in float32."""
    if x.is_cpu:  # var_mean is twenty times slower there; sums along rows stay short and thus exact
        mean = x.mean((3, 4), dtype=torch.float32)
        rows = torch.linalg.vector_norm(x, dim=4, dtype=torch.float32)
        return mean, (rows.square().mean(3) / x.shape[4] - mean.square()).clamp(min=0)
    if x.dtype == torch.float16:
        x = x.float()  # a variance may be larger than float16 can say
    variance, mean = torch.var_mean(x, (3, 4), correction=0)
    return mean.float(), variance.float()
