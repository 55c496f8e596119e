"""The 3D causal video autoencoder: encoder, decoder, and the ways to run them, whole or in chunks.

Module and parameter names are the released ones (section 2.1 of the paper describes the network). No latent
scaling happens here. Group statistics are those of a chunk, so chunk lengths belong to the weights:
``VAEConfig`` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.conv import CausalConv3d, Downsample, Upsample, silu
from cogvideox.vae.past import Past, Remember, StartOfVideo

Coding = Literal["chunked", "whole"]


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution per latent element. ``logvar`` is already limited to [-30, 20]."""

    mean: Float[Tensor, "b c t h w"]
    logvar: Float[Tensor, "b c t h w"]

    def mode(self) -> Float[Tensor, "b c t h w"]:
        """The most likely latents: the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b c t h w"]:
        """mean + std * noise; the noise is drawn in float32 where the generator lives (CPU to reproduce)."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device).to(self.mean)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, b]:
        """Divergence from the standard normal, summed over all elements of each video."""
        terms = self.mean**2 + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class SpatialNorm(nn.Module):
    """Group normalisation whose scale and shift come from the latents, resized by nearest neighbour."""

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_y = CausalConv3d(latent_channels, channels, 1, 1)
        self.conv_b = CausalConv3d(latent_channels, channels, 1, 1)

    def forward(self, f: Float[Tensor, "b c t h w"], past: Past, z: Float[Tensor, "b z tz hz wz"]) -> Tensor:
        normed = past.normalise(self.norm_layer, f)
        scale, shift = self._modulation(z, f.shape[2], f.shape[4])  # [b, c, t, hz, w]
        b, c, t, hz, w = scale.shape
        rows = (b, c, t, hz, f.shape[3] // hz, w)  # each row of the latents serves several rows of f
        return torch.addcmul(shift.unsqueeze(4), normed.view(rows), scale.unsqueeze(4)).reshape(f.shape)

    def _modulation(self, z: Tensor, frames: int, width: int) -> tuple[Tensor, Tensor]:
        """1x1x1 convolutions commute with nearest resizing: run at latent size. Rows are broadcast later."""
        b, _, tz, hz, wz = z.shape
        y, s = self.conv_y.conv, self.conv_b.conv
        weight, bias = torch.cat([y.weight, s.weight]).flatten(1), torch.cat([y.bias, s.bias])
        both = (weight @ z.flatten(2) + bias[:, None]).view(b, -1, tz, hz, wz)
        scale, shift = resize(both, (frames, hz, width)).chunk(2, dim=1)
        return scale, shift


def resize(z: Float[Tensor, "b c tz hz wz"], size: tuple[int, int, int]) -> Float[Tensor, "b c t h w"]:
    """Nearest neighbour to (t, h, w); an odd t > 1 matches the first frames, and the rest to the rest."""
    if tuple(z.shape[2:]) == size:
        return z
    t, h, w = size
    if t == 1 or t % 2 == 0:
        return F.interpolate(z, size)
    first, rest = F.interpolate(z[:, :, :1], (1, h, w)), F.interpolate(z[:, :, 1:], (t - 1, h, w))
    return torch.cat([first, rest], dim=2)


class Residual(nn.Module):
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
        self, x: Float[Tensor, "b c t h w"], past: Past, z: Tensor | None = None
    ) -> Float[Tensor, "b d t h w"]:
        h = self.conv1(silu(_normalise(self.norm1, x, past, z)), past)
        h = self.conv2(silu(_normalise(self.norm2, h, past, z)), past)
        if h.shape[1] != x.shape[1]:
            x = self.conv_shortcut(x)
        return h + x if torch.is_grad_enabled() else h.add_(x)


class Stage(nn.Module):
    """Residual blocks, then perhaps a change of size."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, config: VAEConfig, latents: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(
            Residual(before, after, config, latents)
            for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Float[Tensor, "b c t h w"], past: Past, z: Tensor | None = None) -> Tensor:
        for block in self.resnets:
            x = block(x, past, z)
        for change in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            x = change(x)
        return x


class Encoder(nn.Module):
    """Pixels to mean and log variance: [b,3,t,h,w] -> [b,2c,t/4,h/8,w/8]. The first stages halve time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = CausalConv3d(config.in_channels, widths[0], time_kernel=config.time_kernel)
        self.down_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = Stage(before, after, config.layers_per_block, config, latents=False)
            if i < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(after, i < config.time_stages)])
            self.down_blocks.append(stage)
        self.mid_block = Stage(widths[-1], widths[-1], 2, config, latents=False)
        self.norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, time_kernel=config.time_kernel)

    def forward(self, x: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.conv_in(x, past)
        for stage in (*self.down_blocks, self.mid_block):
            x = stage(x, past)
        return self.conv_out(silu(past.normalise(self.norm_out, x)), past)


class Decoder(nn.Module):
    """Latents to pixels: [b,c,t,h,w] -> [b,3,4t or 4t-3,8h,8w]. The first stages double time too."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = CausalConv3d(config.latent_channels, widths[0], time_kernel=config.time_kernel)
        self.mid_block = Stage(widths[0], widths[0], 2, config, latents=True)
        self.up_blocks = nn.ModuleList()
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = Stage(before, after, config.layers_per_block + 1, config, latents=True)
            if i < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(after, i < config.time_stages)])
            self.up_blocks.append(stage)
        self.norm_out = SpatialNorm(widths[-1], config.latent_channels, config.norm_num_groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, time_kernel=config.time_kernel)

    def forward(self, z: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.conv_in(z, past)
        for stage in (self.mid_block, *self.up_blocks):
            x = stage(x, past, z)
        return self.conv_out(silu(self.norm_out(x, past, z)), past)


class VAE(nn.Module):
    """Pixels in [-1, 1] to latent distributions and back.

    ``coding="chunked"`` is what the released pipelines do (8 frames or 2 latents at a time); ``"whole"``
    takes the statistics over the whole clip, as the authors trained. Equal shapes, nearly equal numbers.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pixels: Float[Tensor, "b c f h w"], coding: Coding = "chunked") -> Gaussian:
        """The latent distribution of a video. Raises SizeError or FrameError for shapes it cannot code."""
        self._check_pixels(pixels)
        return gaussian(self._code(self.encoder, pixels, coding, self.config.chunk_frames))

    def decode(
        self, latents: Float[Tensor, "b c t h w"], coding: Coding = "chunked"
    ) -> Float[Tensor, "b c f h w"]:
        """The video of (unscaled) latents, about in [-1, 1], not clipped. Raises SizeError or FrameError."""
        self._check_latents(latents)
        return self._code(self.decoder, latents, coding, self.config.chunk_latents)

    def forward(
        self,
        pixels: Float[Tensor, "b c f h w"],
        generator: torch.Generator | None = None,
        coding: Coding = "whole",
    ) -> tuple[Float[Tensor, "b c f h w"], Gaussian]:
        """One training pass: the reconstruction from sampled latents, and their distribution."""
        latents = self.encode(pixels, coding)
        return self.decode(latents.sample(generator), coding), latents

    def stream_encode(
        self, pieces: Iterable[Float[Tensor, "b c _ h w"]], frames: int | None = None
    ) -> Iterator[Gaussian]:
        """Encode a video of any length in constant memory: any pieces in, a Gaussian per chunk out.

        Equals ``encode(coding="chunked")`` of the joined pieces. ``frames`` is the length of the video;
        without it the length must turn out 8n + 1 (or one chunk): the remainder belongs to the first chunk.
        Raises FrameError when the length is another.
        """
        for moments in self._stream(
            self.encoder, pieces, frames, self.config.chunk_frames, self._check_pixels
        ):
            yield gaussian(moments)

    def stream_decode(
        self, pieces: Iterable[Float[Tensor, "b c _ h w"]], latents: int | None = None
    ) -> Iterator[Float[Tensor, "b c f h w"]]:
        """Decode latents of any length in constant memory, equal to chunked ``decode``.

        ``latents`` is their number; without it, it must turn out odd. Raises FrameError when it is another.
        """
        yield from self._stream(self.decoder, pieces, latents, self.config.chunk_latents, self._check_latents)

    def latent_frames(self, frames: int) -> int:
        """Latent frames made from ``frames`` pixel frames."""
        return self.config.latent_frames(frames)

    def pixel_frames(self, latents: int) -> int:
        """Pixel frames made from ``latents`` latent frames."""
        return self.config.pixel_frames(latents)

    def _code(self, network: nn.Module, x: Tensor, coding: Coding, chunk: int) -> Tensor:
        if coding not in ("chunked", "whole"):
            raise ConfigError(f"coding {coding!r}: unknown; choose 'chunked' or 'whole'")
        if coding == "whole":
            return network(x, StartOfVideo())
        bounds, past = chunk_bounds(x.shape[2], chunk), Remember()
        if len(bounds) == 1:  # nothing will follow, nothing to remember
            return network(x, StartOfVideo())
        return torch.cat([network(x[:, :, start:stop], past) for start, stop in bounds], dim=2)

    def _stream(
        self, network: nn.Module, pieces: Iterable[Tensor], total: int | None, chunk: int, check: Callable
    ) -> Iterator[Tensor]:
        past = Remember()
        for piece in rechunk(pieces, chunk, total):
            check(piece)
            yield network(piece, past)

    def _check_pixels(self, x: Tensor) -> None:
        _check(x, self.config.in_channels, "pixels")
        ratio = self.config.spatial_compression_ratio
        for name, size in zip(("height", "width"), x.shape[3:], strict=True):
            if size % ratio or size == 0:
                below = size // ratio * ratio
                tries = f"{below} or {below + ratio}" if below else f"{ratio}"
                raise SizeError(f"{name} {size}: the VAE needs a multiple of {ratio}; try {tries}")

    def _check_latents(self, x: Tensor) -> None:
        _check(x, self.config.latent_channels, "latents")


def gaussian(moments: Float[Tensor, "b d t h w"]) -> Gaussian:
    """Mean and log variance, side by side in the channels, as a distribution."""
    mean, logvar = moments.chunk(2, dim=1)
    return Gaussian(mean, logvar.clamp(-30.0, 20.0))


def chunk_bounds(frames: int, chunk: int) -> list[tuple[int, int]]:
    """Where chunks begin and end: each has ``chunk`` frames, the first the remainder too (25 -> 9, 8, 8)."""
    first = min(frames, chunk + frames % chunk)
    return [(0, first)] + [(start, start + chunk) for start in range(first, frames, chunk)]


def rechunk(pieces: Iterable[Float[Tensor, "b c _ h w"]], chunk: int, total: int | None) -> Iterator[Tensor]:
    """Cut a stream of pieces at ``chunk_bounds(total, chunk)``, holding at most one chunk and one piece.

    Without ``total`` the remainder is taken to be 1. Raises FrameError when the stream ends anywhere else.
    """
    wanted = chunk + (1 if total is None else total % chunk)
    wanted = wanted if total is None else min(wanted, total)
    held, count = [], 0
    seen, first = 0, True
    for piece in pieces:
        held.append(piece)
        count, seen = count + piece.shape[2], seen + piece.shape[2]
        while count >= wanted:
            joined = held[0] if len(held) == 1 else torch.cat(held, dim=2)
            yield joined[:, :, :wanted]
            held, count = [joined[:, :, wanted:]], count - wanted
            wanted, first = chunk, False
    if total is not None and seen != total:
        raise FrameError(f"frames {seen}: the stream was announced with {total}; pass the true number")
    if count and not first:
        raise FrameError(f"frames {seen}: a stream of unknown length needs {chunk}n + 1; pass its length")
    if count:
        yield torch.cat(held, dim=2)


def _norm(channels: int, config: VAEConfig, latents: bool) -> nn.Module:
    if latents:
        return SpatialNorm(channels, config.latent_channels, config.norm_num_groups)
    return nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)


def _normalise(norm: nn.Module, x: Tensor, past: Past, z: Tensor | None) -> Tensor:
    return past.normalise(norm, x) if z is None else norm(x, past, z)


def _check(x: Tensor, channels: int, name: str) -> None:
    if x.ndim != 5 or x.shape[1] != channels:
        raise SizeError(f"{name} {tuple(x.shape)}: expected [batch, {channels}, frames, height, width]")
    if x.shape[2] == 0:
        raise FrameError(f"{name} {tuple(x.shape)}: there is no frame; give at least one")
