"""The 3D causal video autoencoder: encoder, decoder, and the ways to run them, whole or in chunks.

No latent scaling happens here. Group statistics are those of a chunk, so chunk lengths belong to the weights:
``VAEConfig`` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.brief import Brief
from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.conv import concat_frames
from cogvideox.vae.network import Decoder, Encoder
from cogvideox.vae.past import Past, Remember, StartOfVideo

Coding = Literal["chunked", "whole"]


@dataclass(frozen=True, repr=False)
class Gaussian(Brief):
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

    def encode(
        self, pixels: Float[Tensor, "b c f h w"], coding: Coding = "chunked", past: Past | None = None
    ) -> Gaussian:
        """The latent distribution of a video, or with ``past`` of one chunk of a video, at once.

        Raises SizeError or FrameError for shapes it cannot code.
        """
        self._check_pixels(pixels)
        if past is not None:
            return gaussian(_run(self.encoder, pixels, past))
        bounds = chunk_bounds(pixels.shape[2], self.config.chunk_frames)
        return gaussian(self._code(self.encoder, pixels, coding, bounds, self.config.latent_frames))

    def decode(
        self, latents: Float[Tensor, "b c t h w"], coding: Coding = "chunked", past: Past | None = None
    ) -> Float[Tensor, "b c f h w"]:
        """The video of (unscaled) latents, about in [-1, 1], not clipped; with ``past`` of one chunk, at once.

        Raises SizeError or FrameError.
        """
        self._check_latents(latents)
        if past is not None:
            return _run(self.decoder, latents, past)
        alone = self.config.first_latent_alone
        bounds = chunk_bounds(latents.shape[2], self.config.chunk_latents, alone)
        return self._code(self.decoder, latents, coding, bounds, self.config.pixel_frames, alone)

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
        self, slices: Iterable[Float[Tensor, "b c _ h w"]], frames: int | None = None
    ) -> Iterator[Gaussian]:
        """Encode a video of any length in constant memory: slices of any length in, a Gaussian per chunk out.

        Equals ``encode(coding="chunked")`` of the joined slices. ``frames`` is the length of the video;
        without it the length must turn out 8n + 1 (or one chunk): the remainder belongs to the first chunk.
        Raises FrameError when the length is another.
        """
        chunks = rechunk(slices, self.config.chunk_frames, frames)
        for moments in self._stream(self.encoder, chunks, self._check_pixels, total=frames):
            yield gaussian(moments)

    def stream_decode(
        self, slices: Iterable[Float[Tensor, "b c _ h w"]], latents: int | None = None
    ) -> Iterator[Float[Tensor, "b c f h w"]]:
        """Decode latents of any length in constant memory, equal to chunked ``decode``.

        ``latents`` is their number; without it, it must turn out odd. Raises FrameError when it is another.
        """
        alone = self.config.first_latent_alone
        chunks = rechunk(slices, self.config.chunk_latents, latents, alone)
        yield from self._stream(self.decoder, chunks, self._check_latents, alone, latents)

    def _code(
        self,
        network: nn.Module,
        x: Tensor,
        coding: Coding,
        bounds: list[tuple[int, int]],
        frames_out: Callable[[int], int],
        first_alone: bool = False,
    ) -> Tensor:
        if coding not in ("chunked", "whole"):
            raise ConfigError(f"coding {coding!r}: unknown; choose 'chunked' or 'whole'")
        if coding == "whole" or len(bounds) == 1:  # nothing will follow, nothing to remember
            return _run(network, x, StartOfVideo(single_first=True if first_alone else None))
        past = Remember()

        def chunks() -> Iterator[Tensor]:
            for start, stop in bounds:
                past.is_last_chunk = stop == x.shape[2]
                past.single_first = start == 0 if first_alone else None
                yield _run(network, x[:, :, start:stop], past)

        return concat_frames(chunks(), frames_out(x.shape[2]))

    def _stream(
        self,
        network: nn.Module,
        chunks: Iterable[Tensor],
        check: Callable,
        first_alone: bool = False,
        total: int | None = None,
    ) -> Iterator[Tensor]:
        past, seen = Remember(), 0
        for index, x in enumerate(chunks):
            check(x)
            seen += x.shape[2]
            past.is_last_chunk = seen == total
            past.single_first = index == 0 if first_alone else None
            yield _run(network, x, past)

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


def _run(network: nn.Module, x: Tensor, past: Past) -> Tensor:
    """The network, recording for gradients only if somebody wants them: without, it works in place."""
    wanted = x.requires_grad or any(p.requires_grad for p in network.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
        return network(x, past)


def gaussian(moments: Float[Tensor, "b d t h w"]) -> Gaussian:
    """Mean and log variance, side by side in the channels, as a distribution."""
    mean, logvar = moments.chunk(2, dim=1)
    return Gaussian(mean, logvar.clamp(-30.0, 20.0))


def chunk_bounds(frames: int, chunk: int, first_alone: bool = False) -> list[tuple[int, int]]:
    """Where chunks begin and end: each has ``chunk`` frames, the first the remainder too (25 -> 9, 8, 8).

    ``first_alone``: the first frame is a chunk, the last chunk may be shorter (6 frames by 2 -> 1, 2, 2, 1).
    """
    first = 1 if first_alone else min(frames, chunk + frames % chunk)
    return [(0, first)] + [(start, min(start + chunk, frames)) for start in range(first, frames, chunk)]


def rechunk(
    slices: Iterable[Float[Tensor, "b c _ h w"]], chunk: int, total: int | None, first_alone: bool = False
) -> Iterator[Tensor]:
    """Cut a stream of slices at ``chunk_bounds(total, chunk, ...)``, holding at most one chunk and one slice.

    Without ``total`` the remainder is taken to be 1. Raises FrameError when the stream ends anywhere else.
    """
    if first_alone:
        wanted = 1
    else:
        wanted = chunk + (1 if total is None else total % chunk)
        wanted = wanted if total is None else min(wanted, total)
    held, count = [], 0
    seen, first = 0, True
    for x in slices:
        held.append(x)
        count, seen = count + x.shape[2], seen + x.shape[2]
        while count >= wanted:
            joined = held[0] if len(held) == 1 else torch.cat(held, dim=2)
            yield joined[:, :, :wanted]
            held, count = [joined[:, :, wanted:]], count - wanted
            wanted, first = chunk, False
    if total is not None and seen != total:
        raise FrameError(f"frames {seen}: the stream was announced with {total}; pass the true number")
    if count and not first and not first_alone:
        raise FrameError(f"frames {seen}: a stream of unknown length needs {chunk}n + 1; pass its length")
    if count:
        yield torch.cat(held, dim=2)


def _check(x: Tensor, channels: int, name: str) -> None:
    if x.ndim != 5 or x.shape[1] != channels:
        raise SizeError(f"{name} {tuple(x.shape)}: expected [batch, {channels}, frames, height, width]")
    if x.shape[2] == 0:
        raise FrameError(f"{name} {tuple(x.shape)}: there is no frame; give at least one")
