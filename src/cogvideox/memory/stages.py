"""How much memory each stage of a generation works in, weights aside: the real code on tensors without memory.

A network of a few layers and steps is counted and carried on in a straight line, and a long clip from a short
one, so that any size answers in seconds; tests hold that against counting everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from cogvideox.diffusion import (
    SAMPLERS,
    Branch,
    Network,
    SamplerStep,
    Schedule,
    denoiser,
    guided,
    sequential,
)
from cogvideox.diffusion.windows import Window, take
from cogvideox.memory.count import count
from cogvideox.memory.lowbit import Products, take_memory_in_low_bits, take_memory_of_quantised
from cogvideox.memory.request import Request
from cogvideox.transformer import Transformer
from cogvideox.transformer.calls import answering, at_step, in_window, sampler_call
from cogvideox.transformer.controlnet import Control, ControlNet, controlled
from cogvideox.transformer.modulation import tabulated
from cogvideox.transformer.reuse import first_block_cached, reusing
from cogvideox.vae import VAE, Tiles, decode_tiled, encode_tiled

Pair = Literal["batched", "sequence"]
VaeWay = Literal["chunked", "tiled"]
FEW, LONG = 2, 7  # layers or steps that are counted; latent frames that are


def peak_of(request: Request, work: Callable[[], Any]) -> int:
    """Most bytes alive while ``work`` runs on the device of the request."""
    return count(work, request.on_cpu).peak


def denoising(request: Request, pair: Pair, low_bits: Products | None = None) -> int:
    """Bytes alive at the peak of sampling: carried on from two and three layers, two and three steps, and of a video in
    windows from two and three windows.

    ``low_bits``: the kind of products, where the blocks keep their weights in one byte each; None: they do not.
    """
    windows = request.windows
    if windows is None:
        return _denoising(request, pair, low_bits)
    further = windows.size - windows.overlap
    two, three = (windows.size + times * further for times in (1, 2))
    if request.latents <= three:
        return _denoising(request, pair, low_bits)
    sides = request.height, request.width
    base, more = (
        _denoising(request.resized(request.frames, t, *sides), pair, low_bits) for t in (two, three)
    )
    return base + (more - base) * (request.latents - two) // further


def _denoising(request: Request, pair: Pair, low_bits: Products | None) -> int:
    layers, steps = request.spec.transformer.num_layers, request.steps
    few, few_steps = min(FEW, layers), min(FEW + (request.reuse or request.first_block), steps)
    base = _sampling(request, pair, few, few_steps, low_bits)
    if layers <= FEW:
        return base
    more = _sampling(request, pair, few + 1, few_steps, low_bits)
    longer = _sampling(request, pair, few, few_steps + 1, low_bits) if steps > few_steps else base
    both = _sampling(request, pair, few + 1, few_steps + 1, low_bits) if longer != base else more
    a, b = layers - few, steps - few_steps
    return base + a * (more - base) + b * (longer - base) + a * b * (both - more - longer + base)


def _sampling(request: Request, pair: Pair, layers: int, steps: int, low_bits: Products | None = None) -> int:
    """Peak of one sampling with this many layers and steps, its inputs included."""
    transformer, spec = request.transformer(layers), request.spec
    nets = [request.controlnet(each, min(layers, each.num_layers)) for each in request.control_nets]
    take_memory_of_quantised(transformer, spec.stored_bytes.get("transformer", {}))
    if low_bits is not None:
        take_memory_in_low_bits(transformer.transformer_blocks, low_bits)
    factor = spec.vae.spatial_compression_ratio
    path = Schedule(spec.schedule).path(steps)
    size = request.latents, request.height // factor, request.width // factor
    shape = 1, spec.transformer.out_channels, *size
    between = torch.float32 if request.float32_latents else request.dtype

    def work(path: Sequence[SamplerStep] = path) -> Tensor:
        with torch.device("meta"):
            text = torch.empty(len(request.branches), spec.text_tokens, spec.transformer.text_embed_dim)
            image = torch.empty(1, spec.transformer.in_channels - shape[1], *size, dtype=between)
            start = torch.empty(shape, dtype=between)
        network = _network(transformer, text.to(request.dtype), image, request, pair)
        denoise = guided(network, request.guider.always()) if request.guided else denoiser(network)

        def noise(draws: int) -> Tensor:
            return torch.empty(shape, dtype=between, device="meta")

        def at(x: Tensor, step: SamplerStep) -> Tensor:
            with at_step(step.index):
                return denoise(x, step)

        return SAMPLERS[request.sampler](at, start, path, noise=noise)

    tables = tabulated(transformer, [step.t for step in path]) if request.tables else nullcontext()
    # old residuals are there at the last
    factors = [1.0 if 0 < i == steps - 2 else None for i in range(steps)]
    reuse: AbstractContextManager[Any] = reusing(transformer, factors) if request.reuse else nullcontext()
    if request.first_block:
        reuse = first_block_cached(transformer, 0.0)
    with (
        torch.no_grad(),
        tables,
        controlled(transformer, [_control(net, size) for net in nets], steps),
        reuse,
    ):
        peak_of(request, lambda: work(path[:1]))  # tables of positions are made once, before the count
        if request.windows is not None:  # and the weights of its windows
            for step in path:
                empty = torch.empty(shape, dtype=between, device="meta")
                request.windows.blended(step.index, empty, lambda window, x: x)
        return peak_of(request, work)


def _control(network: ControlNet, size: tuple[int, int, int]) -> Control:
    """A ControlNet at every step, with an encoded video of latent frames, height and width."""
    some = next(network.parameters())
    return Control(network, some.new_empty(1, network.config.folded // 4, *size))


def _network(transformer: Transformer, text: Tensor, image: Tensor, request: Request, pair: Pair) -> Network:
    windows, branches = request.windows, request.branches

    def reading(text: Tensor, branches: Sequence[Branch]) -> Network:
        def answer(x: Tensor, t: Tensor, image: Tensor) -> Tensor:
            noisy = x
            if image.shape[1]:
                x = torch.cat([x, image.to(x.dtype).repeat(x.shape[0], 1, 1, 1, 1)], dim=1)
            with answering(branches, noisy, text, t):
                return transformer(x.to(text.dtype), text, t)

        def network(x: Tensor, t: Tensor) -> Tensor:
            if windows is None:
                return answer(x, t, image)

            def ask(window: Window, x: Tensor) -> Tensor:
                with in_window(window):
                    return answer(x, t, take(image, window))

            return windows.blended(sampler_call().step, x, ask)

        return network

    if pair == "batched":
        return reading(text, branches)
    return sequential([reading(each, (name,)) for each, name in zip(text.split(1), branches, strict=True)])


def decoding(request: Request, way: VaeWay) -> int:
    """Bytes alive at the peak of decoding, latents and pixels included."""
    vae, config = request.vae(), request.spec.vae
    factor = config.spatial_compression_ratio
    latents = config.latent_frames(request.frames)

    def latent(t: int, h: int, w: int) -> Tensor:
        return torch.empty(1, config.latent_channels, t, h, w, dtype=request.dtype, device="meta")

    def plain(t: int, h: int, w: int) -> int:
        return peak_of(request, lambda: vae.decode(latent(t, h, w)))

    high, wide = request.height // factor, request.width // factor
    if way == "chunked" and request.windows is not None:
        return _decoding_streamed(request, vae, latents)
    if way == "chunked":
        return _along(latents, request.height * request.width, request, lambda t: plain(t, high, wide))
    grid = Tiles.usual(config).grid(config)
    tile = min(high, grid.height.latents), min(wide, grid.width.latents)
    inside = _along(latents, tile[0] * tile[1] * factor**2, request, lambda t: plain(t, *tile))

    def decode(z: Tensor) -> Tensor:
        """Takes the memory of decoding a tile and does nothing else."""
        torch.empty(inside, dtype=torch.uint8, device="meta")
        frames, sides = config.pixel_frames(z.shape[2]), (z.shape[3] * factor, z.shape[4] * factor)
        return torch.empty(1, config.out_channels, frames, *sides, dtype=z.dtype, device="meta")

    stand_in: Any = SimpleNamespace(config=config, decode=decode)
    return peak_of(request, lambda: decode_tiled(stand_in, latent(latents, high, wide)))


def _decoding_streamed(request: Request, vae: VAE, latents: int) -> int:
    """Bytes alive while frames are decoded one chunk after the other, each gone when the next comes."""
    config = request.spec.vae
    factor = config.spatial_compression_ratio
    sides = request.height // factor, request.width // factor
    counted = min(latents, LONG + 1 - LONG % 2)

    def work() -> None:
        z = torch.empty(1, config.latent_channels, counted, *sides, dtype=request.dtype, device="meta")
        for _ in vae.stream_decode(z.split(config.chunk_latents, dim=2), counted):
            pass

    more = (latents - counted) * config.latent_channels * sides[0] * sides[1] * request.dtype.itemsize
    return peak_of(request, work) + 2 * more  # scaled and unscaled


def encoding(request: Request, way: VaeWay) -> int:
    """Bytes alive at the peak of encoding the given frames; 0 when nothing is given."""
    if not request.given:
        return 0
    vae, config = request.vae(), request.spec.vae

    def plain(frames: int) -> int:
        def work() -> Tensor:
            size = (1, config.in_channels, frames, request.height, request.width)
            pixels = torch.empty(size, device="meta").to(request.dtype)
            latents = encode_tiled(vae, pixels) if way == "tiled" else vae.encode(pixels)
            return latents.mean + latents.logvar

        return peak_of(request, work)

    frames, long = request.given, (LONG - 1) * config.temporal_compression_ratio + 1
    pixel = request.height * request.width * config.in_channels * request.dtype.itemsize
    return plain(frames) if frames <= long else plain(long) + (frames - long) * pixel


def _along(latents: int, pixels: int, request: Request, peak: Callable[[int], int]) -> int:
    """The peak of decoding ``latents`` frames of so many pixels: working memory does not grow with length.

    Only the frames that are done are kept, and at the end they are joined, which holds them twice.
    """
    if latents <= LONG:
        return peak(latents)
    config = request.spec.vae
    frame = pixels * config.out_channels * request.dtype.itemsize
    done = config.pixel_frames(latents)
    return max(peak(LONG) + (done - config.pixel_frames(LONG)) * frame, 2 * done * frame)


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes that each stage works in, weights not counted."""

    text: int
    encode: int
    denoise: int
    decode: int
