"""Encoder and decoder: residual blocks in stages that change size (section 2.1).

Module and parameter names are the released ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.config import VAEConfig
from cogvideox.vae.conv import CausalConv3d, Downsample, Upsample, each_twice, project
from cogvideox.vae.norm import SpatialNorm, activated
from cogvideox.vae.past import Past


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus a shortcut. With ``latents`` the norms are SpatialNorms."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, latents: bool) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, config, latents)
        self.conv1 = CausalConv3d(in_channels, out_channels, time_kernel=config.time_kernel)
        self.norm2 = _norm(out_channels, config, latents)
        self.conv2 = CausalConv3d(out_channels, out_channels, time_kernel=config.time_kernel)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "b c t h w"], past: Past, z: Tensor | None = None, twice: bool = False
    ) -> Float[Tensor, "b d t2 h w"]:
        """``twice``: each frame of ``x`` is shown twice. Without gradients ``x`` is written over."""
        h = list(self.conv1.runs(activated(self.norm1, [x], past, z, twice), past, twice))
        runs = self.conv2.runs(activated(self.norm2, h, past, z), past)
        if torch.is_grad_enabled():
            return torch.cat([*runs], dim=2) + self._shortcut(x, past, twice)
        if twice:
            return _add_over(self._shortcut(x, past, twice), runs, lambda run: run)
        return _add_over(x, runs, partial(self._shortcut, past=past))

    def _shortcut(
        self, x: Float[Tensor, "b c t h w"], past: Past, twice: bool = False
    ) -> Float[Tensor, "b d t2 h w"]:
        alone = past.alone(x.shape[2])
        if hasattr(self, "conv_shortcut"):
            x = project(self.conv_shortcut, x)
        return each_twice(x, alone) if twice else x


def _add_over(
    x: Float[Tensor, "b c t h w"], runs: Iterator[Tensor], shortcut: Callable[[Tensor], Tensor]
) -> Float[Tensor, "b d t h w"]:
    """``runs`` + ``shortcut(x)``, run by run written over ``x`` as far as its channels reach."""
    out, start = x, 0
    for run in runs:
        if start == 0 and run.shape[1] != x.shape[1]:
            fewer = run.shape[1] < x.shape[1]
            out = x[:, : run.shape[1]] if fewer else x.new_empty(len(x), run.shape[1], *x.shape[2:])
        here = slice(start, start + run.shape[2])
        torch.add(shortcut(x[:, :, here]), run, out=out[:, :, here])
        start = here.stop
    return out.clone() if out.shape[1] < x.shape[1] else out  # a view would keep all channels alive


class VaeStage(nn.Module):
    """ResidualBlock blocks, then perhaps a change of size."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, config: VAEConfig, latents: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(
            ResidualBlock(before, after, config, latents)
            for before, after in zip(widths, widths[1:], strict=False)
        )

    def steps(
        self, past: Past, z: Float[Tensor, "b z t h w"] | None = None, twice: bool = False
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """What is done in order, for the caller to do: whoever called would hold the input to the end."""
        for i, block in enumerate(self.resnets):
            yield partial(block, past=past, z=z, twice=twice and i == 0)
        yield from (partial(down, past=past) for down in getattr(self, "downsamplers", ()))
        yield from getattr(self, "upsamplers", ())


class Encoder(nn.Module):
    """Pixels to mean and log variance: [b,3,t,h,w] -> [b,2c,t/4,h/8,w/8]. The first stages halve time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = CausalConv3d(config.in_channels, widths[0], time_kernel=config.time_kernel)
        self.down_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = VaeStage(before, after, config.layers_per_block, config, latents=False)
            if i < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(after, i < config.time_stages)])
            self.down_blocks.append(stage)
        self.mid_block = VaeStage(widths[-1], widths[-1], 2, config, latents=False)
        self.norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, time_kernel=config.time_kernel)
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.window = 2**27  # most of the past is at full size here: leave room for it

    def forward(self, x: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.conv_in(x, past)
        for stage in (*self.down_blocks, self.mid_block):
            for step in stage.steps(past):
                x = step(x)
        return self.conv_out(activated(self.norm_out, [x], past), past)


class Decoder(nn.Module):
    """Latents to pixels: [b,c,t,h,w] -> [b,3,4t or 4t-3,8h,8w]. The first stages double time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.time_stages = config.time_stages
        self.conv_in = CausalConv3d(config.latent_channels, widths[0], time_kernel=config.time_kernel)
        self.mid_block = VaeStage(widths[0], widths[0], 2, config, latents=True)
        self.up_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = VaeStage(before, after, config.layers_per_block + 1, config, latents=True)
            if i < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(after)])
            self.up_blocks.append(stage)
        self.norm_out = SpatialNorm(widths[-1], config.latent_channels, config.norm_num_groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, time_kernel=config.time_kernel)

    def forward(self, z: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.conv_in(z, past)
        for i, stage in enumerate((self.mid_block, *self.up_blocks)):
            for step in stage.steps(past, z, twice=1 < i <= self.time_stages + 1):  # time doubles in between
                x = step(x)
        return self.conv_out(activated(self.norm_out, [x], past, z), past)


def _norm(channels: int, config: VAEConfig, latents: bool) -> nn.Module:
    if latents:
        return SpatialNorm(channels, config.latent_channels, config.norm_num_groups)
    return nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
