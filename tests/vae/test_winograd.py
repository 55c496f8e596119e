"""Winograd's convolution is the plain one: in float64 to the last digits, in float32 no further from the truth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cogvideox.cpu_ops import conv3d
from cogvideox.vae import VAE, VAEConfig, winograd
from cogvideox.vae.winograd import Winograd, is_faster


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("taps", [1, 2, 3])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 6, 5), (2, 7, 9), (5, 16, 4)])
@pytest.mark.parametrize("workspace", [1, 2**22])
@torch.no_grad()
def test_equals_the_direct_convolution(monkeypatch, taps, frames, height, width, workspace):
    monkeypatch.setattr(winograd, "WORKSPACE", workspace)  # a pair of rows at a time, or all
    x = drawn(2, 8, frames + taps - 1, height, width, dtype=torch.float64)
    weight, bias = drawn(6, 8, taps, 3, 3, dtype=torch.float64), drawn(6, dtype=torch.float64)
    for each in (bias, None):
        expected = F.conv3d(x, weight, each, padding=(0, 1, 1))
        torch.testing.assert_close(Winograd(weight)(x, each), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_rounds_no_more_than_the_direct_convolution():
    x, weight = drawn(1, 128, 4, 12, 16), drawn(128, 128, 3, 3, 3)
    exact = F.conv3d(x.double(), weight.double(), padding=(0, 1, 1))

    def error(y: torch.Tensor) -> float:
        return float((y - exact).norm() / exact.norm())

    fast, direct = error(Winograd(weight)(x, None)), error(conv3d(x, weight, padding=(0, 1, 1)))
    assert fast < 5e-7
    assert fast < 2 * direct


def test_used_where_it_is_faster_only():
    wide, narrow = drawn(128, 128, 3, 3, 3), drawn(128, 96, 3, 3, 3)
    assert not is_faster(wide, 10**6)  # gradients may be wanted
    with torch.no_grad():
        assert is_faster(wide, 10**6)
        assert not is_faster(narrow, 10**6)
        assert not is_faster(drawn(128, 128, 1, 1, 1), 10**6)
        assert not is_faster(wide, 128)
        assert not is_faster(wide.to("meta"), 10**6)
        with torch.autocast("cpu", torch.bfloat16):
            assert not is_faster(wide, 10**6)


@pytest.mark.parametrize("frames", [1, 4, 5, 6])
def test_a_wide_vae_gives_the_numbers_of_its_direct_convolutions(monkeypatch, frames):
    torch.manual_seed(0)
    config = VAEConfig(
        block_out_channels=(128, 128), layers_per_block=1, latent_channels=4, temporal_compression_ratio=2
    )
    vae = VAE(config).eval().requires_grad_(False)
    pixels = drawn(1, 3, frames, 16, 16)
    used = []
    monkeypatch.setattr(winograd, "LEAST_POSITIONS", 1)
    monkeypatch.setattr(winograd._Scratch, "write", counted(winograd._Scratch.write, used))
    latents = vae.encode(pixels).mean
    video = vae.decode(latents)
    assert used
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 10**9)
    torch.testing.assert_close(latents, vae.encode(pixels).mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(video, vae.decode(latents), rtol=0, atol=1e-5)


def counted(function, calls: list):
    def call(*args):
        calls.append(args)
        return function(*args)

    return call
