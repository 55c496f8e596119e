"""Group normalisation of a chunk of video, and its modulation by the latents: as a scale and a shift.

The statistics are computed once, frame by frame; what they and the latents do to the frames is one factor and one
summand per channel (and per latent position), which ``Frames`` applies.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.conv import CausalConv3d, double_frames
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
        assert y.bias is not None and s.bias is not None  # the released layers have them
        scale, shift = (
            scale[..., 0, 0],
            shift[..., 0, 0],
        )  # [b, c, 1], in float32, to which weights are promoted
        y_weight, s_weight = y.weight.flatten(1), s.weight.flatten(1)
        weight = torch.cat([scale * y_weight, torch.addcmul(s_weight, shift, y_weight)], dim=1)
        bias = torch.cat([scale[..., 0] * y.bias, torch.addcmul(s.bias, shift[..., 0], y.bias)], dim=1)
        both = torch.baddbmm(bias[..., None], weight, z.float().flatten(2)).float()
        factor, summand = both.unflatten(2, z.shape[2:]).chunk(2, dim=1)
        return factor, summand


def norm_silu(
    norm: nn.GroupNorm | SpatialNorm,
    slices: list[Float[Tensor, "b c _ h w"]],
    past: Past,
    z: Float[Tensor, "b z tz hz wz"] | None = None,
    double_time: bool = False,
) -> Frames:
    """SiLU(norm(x)) of a chunk in slices, computed when a convolution reads it; a SpatialNorm is modulated by ``z``.

    ``double_time``: every frame is shown twice (a single first one once), which the statistics count.
    """
    group_norm = norm.norm_layer if isinstance(norm, SpatialNorm) else norm
    scale, shift = _scale_and_shift(group_norm, slices, past, double_time)
    if isinstance(norm, SpatialNorm) and z is not None:
        scale, shift = norm.modulated(z, scale, shift)
    return Frames(slices, scale, shift, past.has_single_first_frame(sum(x.shape[2] for x in slices)))


def _scale_and_shift(
    norm: nn.GroupNorm, slices: list[Tensor], past: Past, double_time: bool
) -> tuple[Float[Tensor, "b c 1 1 1"], Float[Tensor, "b c 1 1 1"]]:
    """What group normalisation does to each channel: (x - mean) / std · weight + bias as one factor and one summand."""
    found = [moments(x) for x in slices]
    means, variances = (
        found[0] if len(found) == 1 else (torch.cat(each, 2) for each in zip(*found, strict=True))
    )
    if double_time:
        single_first = past.has_single_first_frame(means.shape[2])
        means, variances = double_frames(means, single_first), double_frames(variances, single_first)
    means, variances = (x.unflatten(1, (norm.num_groups, -1)) for x in (means, variances))  # [b, g, c / g, t]
    frames = means.shape[3]
    mean = past.mean_over_clip(means.mean((2, 3), dtype=torch.float32), frames)  # [b, g]
    spread = variances + (means - mean[:, :, None, None]) ** 2
    inverse_std = (past.mean_over_clip(spread.mean((2, 3)), frames) + norm.eps).rsqrt()
    weight, bias = (x.unflatten(0, (norm.num_groups, -1)) for x in (norm.weight, norm.bias))  # [g, c / g]
    scale = weight * inverse_std[..., None]  # [b, g, c / g], in float32
    shift = bias - scale * mean[..., None]
    return scale.flatten(1)[:, :, None, None, None], shift.flatten(1)[:, :, None, None, None]


def moments(x: Float[Tensor, "b c t h w"]) -> tuple[Float[Tensor, "b c t"], Float[Tensor, "b c t"]]:
    """Mean and variance of every channel of every frame, in float32 on a CPU, in the precision of ``x`` elsewhere
    (float16: float32)."""
    if x.is_cpu:  # var_mean is twenty times slower there; sums along rows stay short and thus exact
        mean = x.mean((3, 4), dtype=torch.float32)
        norms = torch.linalg.vector_norm(x, dim=4, dtype=torch.float32)
        return mean, (norms.square().mean(3) / x.shape[4] - mean.square()).clamp(min=0)
    if x.dtype == torch.float16:
        x = x.float()  # a variance may be larger than float16 can say
    variance, mean = torch.var_mean(x, (3, 4), correction=0)
    return mean, variance
