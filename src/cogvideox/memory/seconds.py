"""How long a run will take: its work counted by formula, over rates measured on the device in a moment.

The work of a stage is multiply-adds, bytes moved and calls. A rate is what a product, an attention and a convolution of
the model's own widths reach here, and a copy and a small operator; of a device that is not here, a share of what its
vendor prints. On an idle machine estimates of whole runs were within a factor of two of processor time
(docs/memory.md); on a busy one the clock is longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox import cpu_ops
from cogvideox.device import peak_of
from cogvideox.memory.request import Request
from cogvideox.memory.weights import TextShape
from cogvideox.vae import VAE, VAEConfig, winograd

PASSES = 56  # times a block's rows are read or written, in widths of one token: counted from the real block
VAE_PASSES = 150  # the same of decoding, in first widths for each pixel of a frame: 100 to 210 were counted
CALLS = 30  # operators of a block that are not views
REPEATS, LEAST = 10, 0.04  # a probe is repeated; the fastest of at least so many runs and seconds counts
SHARE_OF_CARD, SHARE_IN_CONVOLUTIONS = 0.35, 0.15
"""Of what a card's vendor prints. Published runs: products and attention 0.30 to 0.38, 3D convolutions 0.13 to 0.29."""
PROBE = {"cpu": (512, 1e9), "other": (4096, 1e12)}
"""Tokens of a probe and most of its FLOPs: on a CPU that others use, one short run of many is undisturbed.

A probe of wide layers has fewer outputs and heads, not fewer tokens: with few, weights are read and hardly used.
"""


@dataclass(frozen=True)
class Rates:
    """What a device reaches: multiply-adds times two in a second for products, attention and convolutions, bytes in a
    second for copies, and seconds for starting one operator.
    """

    products: float
    attention: float
    convolutions: float
    bytes: float
    call: float
    card: str | None = None  # a card these are assumed of; None: measured

    @classmethod
    def of_card(cls, card: str) -> Rates:
        """A card by name: shares of what is printed, which copies and starts are counted in. Raises ConfigError."""
        whole = peak_of(card)
        rate = SHARE_OF_CARD * whole
        return cls(rate, rate, SHARE_IN_CONVOLUTIONS * whole, float("inf"), 0.0, card)

    def text(self) -> str:
        """One phrase for people."""
        if self.card is not None:
            printed = f"an {self.card}'s printed {peak_of(self.card) / 1e12:g} TFLOPs"
            return f"assumed: {SHARE_OF_CARD:.0%} of {printed}, {SHARE_IN_CONVOLUTIONS:.0%} in convolutions"
        products, attention = self.products / 1e9, self.attention / 1e9
        return f"measured here: {products:,.0f} GFLOP/s in products, {attention:,.0f} in attention"


@dataclass(frozen=True)
class Effort:
    """The work of one stage: FLOPs of products, attention and convolutions, bytes moved, operators."""

    products: float = 0
    attention: float = 0
    convolutions: float = 0
    bytes: float = 0
    calls: float = 0

    def seconds(self, rates: Rates) -> float:
        """One after the other at these rates."""
        return (
            self.products / rates.products
            + self.attention / rates.attention
            + self.convolutions / rates.convolutions
            + self.bytes / rates.bytes
            + self.calls * rates.call
        )

    def times(self, factor: float) -> Effort:
        """The same work so many times."""
        return Effort(*(value * factor for value in vars(self).values()))


def efforts(request: Request, steps: int) -> dict[str, Effort]:
    """The work of each stage of a run of so many denoising steps, by the names that ``generate`` reports."""
    prompts = 1 + ("negative" in request.branches)
    branches = request.evaluations(steps) / steps
    work = {"text": _text(request).times(prompts), "denoise": _step(request, branches).times(steps)}
    pixels = request.height * request.width
    coding = _coding(request.spec.vae, request.dtype.itemsize)
    if request.given:  # the encoder does about half of what the decoder does
        work["encode"] = coding.times(0.5 * request.given * pixels)
    return work | {"decode": coding.times(request.frames * pixels)}


def estimate(request: Request, steps: int, rates: Rates | None = None) -> dict[str, float]:
    """Seconds of each stage on the device of the request; weights are there already."""
    rates = rates or measured(request)
    return {stage: effort.seconds(rates) for stage, effort in efforts(request, steps).items()}


def _step(request: Request, branches: float) -> Effort:
    """One call of the transformer for so many branches of guidance, as a mean over steps; ControlNets run at each."""
    config, spec = request.spec.transformer, request.spec
    side = spec.vae.spatial_compression_ratio * config.patch_size
    video = request.seen // (config.patch_size_t or 1) * (request.height // side) * (request.width // side)
    tokens, layers, width = video + spec.text_tokens, config.num_layers, config.width
    windows = request.windows
    times = windows.asked_frames(request.steps) / windows.size if windows is not None else 1
    sizes = [(layers, width), *((each.num_layers, each.width) for each in request.control_nets)]
    rows = [(branches * tokens * layers * times, width) for layers, width in sizes]
    return Effort(
        products=sum(
            n * 24 * width**2 for n, width in rows
        ),  # query, key, value, out, a feed-forward of four widths
        attention=sum(n * 4 * tokens * width for n, width in rows),
        bytes=sum(n * PASSES * width * request.dtype.itemsize for n, width in rows),
        calls=sum(layers for layers, _ in sizes) * CALLS * times,
    )


def _text(request: Request) -> Effort:
    if request.spec.text_settings is None:
        return Effort()
    shape = TextShape.of(request.spec.text_settings)
    weights = shape.layers * shape.layer
    moved = weights * request.dtype.itemsize
    return Effort(products=2 * weights * request.spec.text_tokens, bytes=moved, calls=shape.layers * CALLS)


@cache
def _coding(config: VAEConfig, itemsize: int) -> Effort:
    """Decoding, for one pixel of one frame: every weight of a convolution, as often as its level has pixels and frames.

    Above the counted work by an eighth to a quarter.
    """
    with torch.device("meta"):
        decoder = VAE(config).decoder
    side, time_ratio, flops = config.spatial_compression_ratio, config.temporal_compression_ratio, 0.0
    for name, weight in decoder.named_parameters():
        if weight.ndim < 3:
            continue
        level = len(config.block_out_channels) - 1 if name.startswith(("norm_out", "conv_out")) else 0
        if name.startswith("up_blocks."):
            level = int(name.split(".")[1]) + ("upsampler" in name)
        flops += 2 * weight.numel() * min(2**level / side, 1) ** 2 * min(2**level / time_ratio, 1)
    return Effort(convolutions=flops, bytes=VAE_PASSES * config.block_out_channels[0] * itemsize)


def measured(request: Request) -> Rates:
    """The rates of the device of a request for its widths and precision; measured once in a process."""
    config, channels = request.spec.transformer, request.spec.vae.block_out_channels[0]
    sizes = config.width, config.attention_head_dim, channels
    return _measured(request.device, request.dtype, *sizes, torch.get_num_threads())


@cache
def _measured(device: str, dtype: torch.dtype, width: int, head: int, channels: int, threads: int) -> Rates:
    tokens, most = PROBE["cpu" if device.split(":")[0] == "cpu" else "other"]
    outputs = int(max(min(4 * width, most / (2 * tokens * width)), 64))
    heads = int(max(min(width // head, most / (8 * tokens**2 * head)), 1))
    side = 64 if 2**15 * 27 * channels**2 <= most else 32

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape).to(device, dtype)

    with torch.no_grad():
        x, weight = drawn(tokens, width), drawn(outputs, width)
        q = drawn(2, heads, tokens, head)
        video, kernel = drawn(1, channels, 4, side, side), drawn(channels, channels, 3, 3, 3)
        small, large = drawn(8), drawn(1 << 22)
        target = torch.empty_like(large)
        padded = video.shape[2] - 2
        convolve = partial(cpu_ops.via_float32, cpu_ops.conv3d, video, kernel, None, padding=(0, 1, 1))
        if cpu_ops.computes_in_float32(video) and winograd.is_faster(kernel, padded * side**2):
            convolve = partial(winograd.Winograd(kernel.float()), video.float(), None)
        work: dict[str, tuple[Callable[[], object], float]] = {
            "products": (lambda: cpu_ops.via_float32(F.linear, x, weight, None), 2 * weight.numel() * tokens),
            "attention": (lambda: F.scaled_dot_product_attention(q, q, q), 4 * q.numel() * q.shape[2]),
            "convolutions": (convolve, 2 * padded * side**2 * 27 * channels**2),
            "bytes": (lambda: target.copy_(large), 2 * large.nbytes),
        }
        rates = {name: amount / _fastest(run, device) for name, (run, amount) in work.items()}
        call = _fastest(lambda: [small + 1 for _ in range(50)], device) / 50
        return Rates(rates["products"], rates["attention"], rates["convolutions"], rates["bytes"], call)


def _fastest(run: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of a few runs; the first one, which prepares, does not count."""
    run()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < REPEATS or spent < LEAST:
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        took = time.perf_counter() - began
        best, spent, runs = min(best, took), spent + took, runs + 1
        if spent > 1 and runs:  # one run is a second: it is known well enough
            break
    return max(best, 1e-9)


def _wait(device: str) -> None:
    kind = device.split(":")[0]
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
