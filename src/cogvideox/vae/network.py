"""Encoder and decoder: residual blocks in stages that change size (section 2.1).

Module and parameter names are the released ones. Where the decoder doubles time, ``Upsample`` enlarges each frame once,
and the residual block behind it (``double_time``) reads each frame twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.config import VAEConfig
from cogvideox.vae.conv import CausalConv3d, Downsample, Upsample, double_frames, project
from cogvideox.vae.norm import SpatialNorm, norm_silu
from cogvideox.vae.past import Past


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))). With ``latents`` the norms are SpatialNorms, modulated by ``z``.

    ``double_time``: every frame of ``x`` is shown twice, a single first one once.
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: VAEConfig, latents: bool, double_time: bool = False
    ) -> None:
        super().__init__()
        self.double_time = double_time
        self.norm1 = _norm(in_channels, config, latents)
        self.conv1 = CausalConv3d(in_channels, out_channels, time_kernel=config.time_kernel)
        self.norm2 = _norm(out_channels, config, latents)
        self.conv2 = CausalConv3d(out_channels, out_channels, time_kernel=config.time_kernel)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "b c t h w"], past: Past, z: Tensor | None = None
    ) -> Float[Tensor, "b d t2 h w"]:
        """A few frames at a time; without gradients ``x`` is written over."""
        h = self.conv1.slices(norm_silu(self.norm1, [x], past, z, self.double_time), past, self.double_time)
        h = self.conv2.slices(norm_silu(self.norm2, list(h), past, z), past)
        if torch.is_grad_enabled():
            return torch.cat([*h], dim=2) + self._shortcut(x, past)
        if self.double_time:
            return _add_in_place(self._shortcut(x, past), h)
        return _add_in_place(x, h, partial(self._shortcut, past=past))

    def _shortcut(self, x: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h w"]:
        single_first = past.has_single_first_frame(x.shape[2])
        if hasattr(self, "conv_shortcut"):
            x = project(self.conv_shortcut, x)
        return double_frames(x, single_first) if self.double_time else x


def _add_in_place(
    x: Float[Tensor, "b c t h w"],
    h: Iterable[Float[Tensor, "b d _ h w"]],
    shortcut: Callable[[Tensor], Tensor] = lambda x: x,
) -> Float[Tensor, "b d t h w"]:
    """``shortcut(x)`` + ``h``, slice by slice, written over ``x`` as far as its channels reach."""
    out, start = x, 0
    for y in h:
        if start == 0 and y.shape[1] != x.shape[1]:
            fewer = y.shape[1] < x.shape[1]
            out = x[:, : y.shape[1]] if fewer else x.new_empty(len(x), y.shape[1], *x.shape[2:])
        frames = slice(start, start + y.shape[2])
        torch.add(shortcut(x[:, :, frames]), y, out=out[:, :, frames])
        start = frames.stop
    return out.clone() if out.shape[1] < x.shape[1] else out  # a view would keep all channels alive


class VaeStage(nn.Module):
    """Residual blocks, then perhaps a change of size: a container, so that the released names come out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        config: VAEConfig,
        latents: bool = False,
        double_time: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(
            ResidualBlock(before, after, config, latents, double_time and i == 0)
            for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
        )


def _layers(*stages: nn.Module) -> Iterator[nn.Module]:
    """The layers of all stages in order.

    The network calls them one by one: a stage that called its layers would hold its input to its end.
    """
    for stage in stages:
        for name in ("resnets", "downsamplers", "upsamplers"):
            yield from getattr(stage, name, ())


class Encoder(nn.Module):
    """Pixels to mean and log variance: [b,3,t,h,w] -> [b,2c,t/4,h/8,w/8]. The first stages halve time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = CausalConv3d(config.in_channels, widths[0], time_kernel=config.time_kernel)
        self.down_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = VaeStage(before, after, config.layers_per_block, config)
            if i < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(after, i < config.time_stages)])
            self.down_blocks.append(stage)
        self.mid_block = VaeStage(widths[-1], widths[-1], 2, config)
        self.norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, time_kernel=config.time_kernel)
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.window = 2**27  # most of the past is at full size here: leave room for it

    def forward(self, x: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        """Mean and log variance of a chunk of pixels, side by side in the channels."""
        x = self.conv_in(x, past)
        for layer in _layers(*self.down_blocks, self.mid_block):
            x = layer(x, past)
        return self.conv_out(norm_silu(self.norm_out, [x], past), past)


class Decoder(nn.Module):
    """Latents to pixels: [b,c,t,h,w] -> [b,3,4t or 4t-3,8h,8w]. The first stages double time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = CausalConv3d(config.latent_channels, widths[0], time_kernel=config.time_kernel)
        self.mid_block = VaeStage(widths[0], widths[0], 2, config, latents=True)
        self.up_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            double_time = 0 < i <= config.time_stages  # behind the upsampling of the stage before
            stage = VaeStage(before, after, config.layers_per_block + 1, config, True, double_time)
            if i < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(after)])
            self.up_blocks.append(stage)
        self.norm_out = SpatialNorm(widths[-1], config.latent_channels, config.norm_num_groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, time_kernel=config.time_kernel)

    def forward(self, z: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        """The pixels of a chunk of latents; every norm is modulated by them."""
        x, z = self.conv_in(z, past), z.float()  # what modulates does so in float32
        for layer in _layers(self.mid_block, *self.up_blocks):
            x = layer(x, past, z)
        return self.conv_out(norm_silu(self.norm_out, [x], past, z), past)


def _norm(channels: int, config: VAEConfig, latents: bool) -> nn.GroupNorm | SpatialNorm:
    if latents:
        return SpatialNorm(channels, config.latent_channels, config.norm_num_groups)
    return nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
