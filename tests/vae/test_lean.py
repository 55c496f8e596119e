"""Every rewrite that saves time or memory equals the plain form, which is written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cogvideox.cpu_ops import conv3d
from cogvideox.vae import VAE, Remember, StartOfVideo, VAEConfig
from cogvideox.vae.conv import CausalConv3d, Upsample, double_frames, project
from cogvideox.vae.frames import Frames
from cogvideox.vae.network import ResidualBlock
from cogvideox.vae.norm import SpatialNorm, norm_silu
from support.golden import fill, fill_model
from support.live import Live

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)


def close(found, plain):
    assert found.shape == plain.shape
    assert (found - plain).abs().max() <= 1e-5 * plain.abs().max()


def plain_resize(z, size):
    """Nearest neighbour; of an odd count the first frame is resized alone."""
    t, h, w = size
    if t == 1 or t % 2 == 0:
        return F.interpolate(z, size)
    return torch.cat([F.interpolate(z[:, :, :1], (1, h, w)), F.interpolate(z[:, :, 1:], (t - 1, h, w))], 2)


def plain_conv(conv, x):
    """The first frame repeated in front, then one convolution over everything."""
    return conv.conv(torch.cat([x[:, :, :1]] * (conv.conv.kernel_size[0] - 1) + [x], dim=2))


def plain_norm(norm, x, z):
    """The latents resized to full size and convolved there."""
    if z is None:
        return norm(x)
    z = plain_resize(z, x.shape[2:])
    return norm.norm_layer(x) * norm.conv_y.conv(z) + norm.conv_b.conv(z)


def plain_residual(block, x, z, double_time):
    x = double_frames(x, x.shape[2] % 2 == 1) if double_time else x
    h = plain_conv(block.conv1, F.silu(plain_norm(block.norm1, x, z)))
    h = plain_conv(block.conv2, F.silu(plain_norm(block.norm2, h, z)))
    return h + (block.conv_shortcut(x) if hasattr(block, "conv_shortcut") else x)


@pytest.fixture(params=[True, False], ids=["training", "inference"])
def gradients(request):
    with torch.set_grad_enabled(request.param):
        yield request.param


@pytest.fixture(params=[2**30, 1], ids=["all at once", "frame by frame"])
def window(request, monkeypatch):
    """How much is convolved at a time must not matter."""
    monkeypatch.setattr("cogvideox.vae.frames.CPU_ELEMENTS", request.param)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("double_time", [False, True])
def test_causal_convolution(frames, double_time, gradients, window):
    conv = fill_model(CausalConv3d(3, 5))
    x = fill("x", (2, 3, frames, 4, 6))
    shown = double_frames(x, x.shape[2] % 2 == 1) if double_time else x
    found = torch.cat([*conv.slices(Frames([x]), StartOfVideo(), double_time)], dim=2)
    close(found.detach(), plain_conv(conv, shown).detach())


@pytest.mark.parametrize("first", [2, 3])
def test_doubled_frames_in_pieces(first, gradients, window):
    conv, past = fill_model(CausalConv3d(3, 5)), Remember()
    x = fill("x", (1, 3, first + 4, 4, 6))
    pieces = [
        run
        for part in x.split([first, 2, 2], 2)
        for run in conv.slices(Frames([part]), past, double_time=True)
    ]
    close(torch.cat(pieces, dim=2).detach(), plain_conv(conv, double_frames(x, x.shape[2] % 2 == 1)).detach())


def test_an_image_convolution_of_doubled_frames():
    conv = fill_model(CausalConv3d(3, 5, time_kernel=1))
    x = fill("x", (1, 3, 5, 4, 6))
    found = torch.cat([*conv.slices(Frames([x]), StartOfVideo(), double_time=True)], dim=2)
    close(found, conv.conv(double_frames(x, x.shape[2] % 2 == 1)))


def test_upsampling_is_a_transposed_convolution():
    up = fill_model(Upsample(3))
    x = fill("x", (2, 3, 3, 5, 4)).requires_grad_()
    nearest = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0))
    plain = F.conv3d(nearest, up.conv.weight.unsqueeze(2), up.conv.bias, padding=(0, 1, 1))
    found = up(x)
    close(found.detach(), plain.detach())
    inputs = (x, up.conv.weight, up.conv.bias)
    for ours, theirs in zip(
        *(torch.autograd.grad(y.square().mean(), inputs) for y in (found, plain)), strict=True
    ):
        close(ours, theirs)


def test_a_projection_is_a_1x1x1_convolution():
    conv = fill_model(nn.Conv3d(3, 5, 1))
    x = fill("x", (2, 3, 4, 4, 6))
    close(project(conv, x[:, :, 1:3]).detach(), conv(x[:, :, 1:3]).detach())


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (3, 3), (9, 3), (8, 2), (4, 4)])
@pytest.mark.parametrize("start", [0, 1])
def test_frames_are_normalised_when_read(frames, latents, start, gradients):
    norm = fill_model(SpatialNorm(8, 4, 2))
    x, z = fill("x", (2, 8, frames, 8, 12)), fill("z", (2, 4, latents, 2, 3))
    plain = F.silu(plain_norm(norm, x, z))
    lazily = norm_silu(norm, [x], StartOfVideo(), z)
    for stop in range(start + 1, frames + 1):
        close(lazily.read(start, x[:, :, start:stop]).detach(), plain[:, :, start:stop].detach())
    close(lazily.tail(2).detach(), plain[:, :, -2:].detach())


@pytest.mark.parametrize("widths", [(8, 8), (8, 4), (4, 8)])
@pytest.mark.parametrize(
    ("frames", "latents", "double_time"), [(1, 1, False), (5, 3, False), (3, 3, True), (2, 2, True)]
)
@pytest.mark.parametrize("modulated", [False, True])
def test_residual_block(widths, frames, latents, double_time, modulated, gradients, window):
    block = fill_model(ResidualBlock(*widths, SMALL, modulated, double_time))
    x = fill("x", (2, widths[0], frames, 8, 8))
    z = fill("z", (2, 4, latents, 2, 2)) if modulated else None
    plain = plain_residual(block, x, z, double_time)
    close(block(x, StartOfVideo(), z).detach(), plain.detach())


@pytest.mark.parametrize(("frames", "double_time"), [(1, False), (5, False), (3, True)])
def test_gradients_of_a_residual_block(frames, double_time):
    block = fill_model(ResidualBlock(8, 4, SMALL, latents=True, double_time=double_time))
    x, z = fill("x", (2, 8, frames, 8, 8)).requires_grad_(), fill("z", (2, 4, frames, 2, 2)).requires_grad_()
    inputs = (x, z, *block.parameters())
    found, plain = block(x, StartOfVideo(), z), plain_residual(block, x, z, double_time)
    pairs = zip(*(torch.autograd.grad(y.square().mean(), inputs) for y in (found, plain)), strict=True)
    largest = max(
        g.abs().max()
        for g in torch.autograd.grad(plain_residual(block, x, z, double_time).square().mean(), inputs)
    )
    assert all((ours - theirs).abs().max() <= 1e-5 * largest for ours, theirs in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_units_computes_in_float32(dtype, monkeypatch):
    monkeypatch.setattr("cogvideox.cpu_ops.half_is_native", lambda dtype: False)
    seen = []
    monkeypatch.setattr(
        "cogvideox.vae.conv.conv3d", lambda x, *rest, **how: seen.append(x.dtype) or conv3d(x, *rest, **how)
    )
    exact = fill_model(VAE(SMALL)).requires_grad_(False)
    z = fill("z", (1, 4, 3, 2, 2))
    expected = exact.decode(z)
    found = exact.to(dtype).decode(z.to(dtype))
    assert found.dtype == dtype and set(seen) == {torch.float32}
    assert (found.float() - expected).square().mean().sqrt() <= 0.05 * expected.std()


def test_training_under_autocast_keeps_float32_gradients():
    model = fill_model(VAE(SMALL))
    x = fill("x", (1, 3, 9, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        pixels, _ = model(x, torch.Generator().manual_seed(0))
    pixels.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again, _ = model(x, torch.Generator().manual_seed(0), coding="whole")
    assert (again - pixels).abs().max() <= 0.05 * pixels.abs().max()


def stream_peaks(stream, mode):
    """The peak of each piece; the piece itself is dropped before the next."""
    for made in stream:
        del made
        yield mode.peak
        mode.peak = mode.now


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_a_thousand_frames_need_no_more_than_fifty(way):
    with torch.device("meta"):
        model = VAE(SMALL).requires_grad_(False)
    if way == "encode":
        stream = model.stream_encode(torch.empty(1, 3, 1, 16, 16, device="meta") for _ in range(1001))
    else:
        stream = model.stream_decode(torch.empty(1, 4, 1, 2, 2, device="meta") for _ in range(251))
    with Live() as mode:
        peaks = [*stream_peaks(stream, mode)]
    assert len(peaks) == 125
    assert max(peaks) == max(peaks[:6])


@pytest.mark.parametrize(("way", "limit"), [("encode", 3.5e9), ("decode", 6.5e9)])
def test_peak_memory_at_real_size(way, limit):
    with torch.device("meta"):
        model = VAE(VAEConfig()).to(torch.bfloat16).requires_grad_(False)
        shape = (1, 3, 17, 480, 720) if way == "encode" else (1, 16, 5, 60, 90)
        x = torch.empty(shape, dtype=torch.bfloat16)
    with Live() as mode:
        getattr(model, way)(x)
    assert mode.peak <= limit
