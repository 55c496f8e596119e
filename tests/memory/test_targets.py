"""Counted at real sizes, with nothing but the code: the budgets that fast paths have to keep.

Figures of diffusers 0.42.1 beside them: block 25.9 GB and 59 calls; decode 1,304 GB, 315 TFLOP, 15.8 GB;
encode 6.6 GB.
"""

from __future__ import annotations

from functools import cache

import torch

from cogvideox import gpu_kernels
from cogvideox.memory.count import FusedAttention
from cogvideox.presets import get_preset
from cogvideox.transformer import Transformer
from cogvideox.transformer.fused import FORMS, fused
from cogvideox.vae import VAE, decode_tiled
from support.benchmarks import benchmark

count = benchmark("traffic").count

GB, TERA, BF16 = 1e9, 1e12, torch.bfloat16


@cache
def transformer(layers: int):
    """The cost of the 5B at 49x480x720 with the guidance pair."""
    network, inputs = on_meta(layers)
    return count(lambda: network(*inputs))


def on_meta(layers: int):
    """The 5B with so many layers, and latents, text and times of the guidance pair at 49x480x720."""
    row = get_preset("5b")
    config = row.transformer.changed(num_layers=layers)
    with torch.device("meta"):
        network = Transformer(config).eval().to(BF16)
        x, text = torch.empty(2, 16, 13, 60, 90, dtype=BF16), torch.empty(2, 226, 4096, dtype=BF16)
        time = torch.empty(2)
    with torch.no_grad():
        network(x, text, time)  # position tables are made once
    return network, (x, text, time)


def of_a_block(name: str) -> int:
    return getattr(transformer(4), name) - getattr(transformer(3), name)


def calls_of_fused(layers: int):
    """What a run by the kernels of ``transformer.fused`` calls."""
    network, inputs = on_meta(layers)
    counter = benchmark("traffic").TrafficCounter()
    with fused(network, FORMS), torch.no_grad(), FusedAttention(), counter:
        network(*inputs)
    return counter.calls


@cache
def coding(way: str, frames: int):
    """The released autoencoder at 480x720 in bf16."""
    with torch.device("meta"):
        vae = VAE(get_preset("5b").vae).eval().to(BF16)
        pixels = torch.empty(1, 3, frames, 480, 720, dtype=BF16)
        latents = torch.empty(1, 16, (frames - 1) // 4 + 1, 60, 90, dtype=BF16)
    work = (lambda: vae.encode(pixels).mode()) if way == "encode" else (lambda: vae.decode(latents))
    return count(work, fuse=False)


def test_block_traffic():
    assert of_a_block("traffic") <= 14 * GB


def test_block_traffic_when_fused():
    """As a compiler that writes its own products fuses; in passes between products alone it is 9.2 GB."""
    assert of_a_block("epilogue") <= 8 * GB


def test_block_by_kernels():
    """Between products and attention 7.9 GB become 2.8: normalise, rotate, add, modulate in one pass each."""
    blocks = {layers: calls_of_fused(layers) for layers in (3, 4)}
    between = {n: sum(call.bytes for call in calls if not call.heavy) for n, calls in blocks.items()}
    assert between[4] - between[3] <= 3 * GB
    assert len(blocks[4]) - len(blocks[3]) <= 14


def test_block_calls():
    assert of_a_block("calls") <= 30


def test_block_peak():
    """x, the normalised x, q, k, v, and one of them rotated through float32: eight times the tokens, 1.75 GB."""
    assert transformer(4).peak <= 1.76 * GB


def test_decode_traffic():
    """By torch alone; 638 GB, for SiLU is an operation of its own."""
    assert coding("decode", 49).traffic <= 640 * GB


def test_decode_traffic_by_kernels():
    with gpu_kernels.using(frozenset({"scale_shift_silu"})):
        assert coding.__wrapped__("decode", 49).traffic <= 520 * GB


def test_decode_arithmetic():
    assert coding("decode", 49).flops <= 292 * TERA


def test_decode_calls():
    """A GPU is told each by its host: statistics and modulation of 222 norms are most of them, and none is a cast."""
    assert coding("decode", 49).calls <= 5_900


def test_tiled_decode_calls():
    """Nine tiles of 480x720, each with the calls of a whole picture."""
    with torch.device("meta"):
        vae = VAE(get_preset("5b").vae).eval().to(BF16)
        latents = torch.empty(1, 16, 13, 60, 90, dtype=BF16)
    assert count(lambda: decode_tiled(vae, latents), fuse=False).calls <= 52_000


def test_decode_peak():
    assert coding("decode", 49).peak <= 6.5 * GB


def test_encode_peak():
    assert coding("encode", 49).peak <= 3.5 * GB


def test_twice_the_frames_in_the_same_memory():
    short, long = coding("decode", 49), coding("decode", 97)
    output = [frames * 3 * 480 * 720 * BF16.itemsize for frames in (49, 97)]
    assert long.peak - output[1] <= 1.1 * (short.peak - output[0])
