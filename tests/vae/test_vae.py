"""Frame arithmetic, causality, precision and settings of the VAE."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.vae import VAE, Remember, StartOfVideo, VAEConfig
from cogvideox.vae.conv import CausalConv3d, Downsample, Upsample, double_frames
from cogvideox.vae.norm import norm_silu
from cogvideox.vae.vae import chunk_bounds
from support.golden import fill, fill_model

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return fill_model(VAE(SMALL)).requires_grad_(False)


class FixedStatistics:
    """A Past that knows mean 0 and variance 1 beforehand: what is left must be exactly causal."""

    def __init__(self, past):
        self.before, self.keep, self.asked = past.before, past.keep, 0
        self.has_single_first_frame = past.has_single_first_frame

    def mean_over_clip(self, averages, frames):
        self.asked += 1
        return torch.full_like(averages, float(self.asked % 2 == 0))  # asked for the mean, then the variance


# B.4 of the released arithmetic: pixel frames, latents, decoded frames
@pytest.mark.parametrize(
    ("frames", "latents", "decoded"),
    [(1, 1, 1), (5, 2, 8), (8, 2, 8), (9, 3, 9), (13, 4, 16), (17, 5, 17), (41, 11, 41), (45, 12, 48),
     (49, 13, 49), (81, 21, 81), (161, 41, 161)],
)  # fmt: skip
def test_frame_arithmetic(frames, latents, decoded):
    assert SMALL.latent_frames(frames) == latents
    assert SMALL.pixel_frames(latents) == decoded


@pytest.mark.parametrize("coding", ["chunked", "whole"])
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 12, 17, 20])
def test_shapes_follow_the_frame_arithmetic(vae, coding, frames):
    latents = vae.encode(fill("x", (1, 3, frames, 16, 8)), coding).mean
    assert latents.shape == (1, 4, vae.config.latent_frames(frames), 2, 1)
    pixels = vae.decode(latents, coding)
    assert pixels.shape == (1, 3, vae.config.pixel_frames(latents.shape[2]), 16, 8)


def test_chunks_give_the_remainder_to_the_first():
    assert [stop - start for start, stop in chunk_bounds(49, 8)] == [9, 8, 8, 8, 8, 8]
    assert [stop - start for start, stop in chunk_bounds(13, 2)] == [3, 2, 2, 2, 2, 2]
    assert (
        chunk_bounds(5, 8) == [(0, 5)] and chunk_bounds(8, 8) == [(0, 8)] and chunk_bounds(1, 2) == [(0, 1)]
    )


def test_chunked_equals_whole_for_a_single_chunk(vae):
    x = fill("x", (1, 3, 9, 16, 16))
    assert torch.equal(vae.encode(x).mean, vae.encode(x, coding="whole").mean)


def test_a_causal_convolution_never_looks_ahead():
    conv = fill_model(CausalConv3d(2, 3))
    x = fill("x", (1, 2, 6, 4, 4))
    changed = x.clone()
    changed[:, :, 4:] = 9.0
    before, after = conv(x, StartOfVideo()), conv(changed, StartOfVideo())
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4], after[:, :, 4])


def test_the_start_of_a_video_repeats_its_first_frame():
    conv = fill_model(CausalConv3d(2, 3))
    x = fill("x", (1, 2, 3, 4, 4))
    padded = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
    torch.testing.assert_close(conv(x, StartOfVideo()), conv.conv(padded))


def test_remembering_one_frame_at_a_time_equals_the_whole():
    conv = fill_model(CausalConv3d(2, 3))
    x = fill("x", (1, 2, 5, 4, 4))
    past = Remember()
    pieces = torch.cat([conv(x[:, :, i : i + 1], past) for i in range(5)], dim=2)
    torch.testing.assert_close(pieces, conv(x, StartOfVideo()))


def test_later_frames_do_not_reach_earlier_latents_through_the_encoder(vae):
    x = fill("x", (1, 3, 9, 16, 16))
    changed = x.clone()
    changed[:, :, 5:] = 0.5
    before = vae.encoder(x, FixedStatistics(StartOfVideo()))
    after = vae.encoder(changed, FixedStatistics(StartOfVideo()))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])


def test_later_chunks_do_not_reach_earlier_ones(vae):
    z = fill("z", (1, 4, 5, 2, 2))
    changed = z.clone()
    changed[:, :, 3:] = 0.5
    before, after = vae.decode(z), vae.decode(changed)
    assert torch.equal(before[:, :, :9], after[:, :, :9])


def test_cutting_time_changes_statistics_and_nothing_else(vae):
    """With statistics out of the way, pieces equal one pass: what context parallel relies on."""
    x, z = fill("x", (1, 3, 17, 16, 16)), fill("z", (1, 4, 5, 2, 2))
    for network, whole, cut in ((vae.encoder, x, 9), (vae.decoder, z, 3)):
        past = FixedStatistics(Remember())
        pieces = [network(whole[:, :, :cut], past), network(whole[:, :, cut:], past)]
        torch.testing.assert_close(
            torch.cat(pieces, dim=2), network(whole, FixedStatistics(StartOfVideo())), atol=1e-5, rtol=1e-5
        )


def test_downsampling_averages_pairs_and_keeps_an_odd_first_frame():
    down = Downsample(1, compress_time=True)
    nn.init.zeros_(down.conv.weight)
    down.conv.weight.data[..., 0, 0] = 1.0  # picks the upper left pixel of every 2x2
    frames = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 2)
    bias = down.conv.bias.item()
    assert (down(frames, StartOfVideo()).flatten() - bias).tolist() == pytest.approx([1.0, 3.0])
    assert (down(frames[:, :, 1:], StartOfVideo()).flatten() - bias).tolist() == pytest.approx([3.0])
    assert (down(frames[:, :, :1], StartOfVideo()).flatten() - bias).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(("frames", "after"), [(1, [0]), (2, [0, 0, 1, 1]), (3, [0, 1, 1, 2, 2])])
def test_upsampling_shows_an_odd_first_frame_once(frames, after):
    up = Upsample(1)
    nn.init.zeros_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    up.conv.weight.data[..., 1, 1] = 1.0
    x = torch.arange(float(frames)).view(1, 1, frames, 1, 1)
    found = double_frames(up(x), x.shape[2] % 2 == 1)
    assert found.shape == (1, 1, len(after), 2, 2)
    assert found[0, 0, :, 1, 1].tolist() == after


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_precision_are_float32(dtype):
    norm = nn.GroupNorm(2, 4)
    x = (fill("x", (1, 4, 3, 8, 8)) * 500 + 2000).to(dtype)  # squares overflow float16
    exact = F.silu(norm(x.float()))
    found = norm_silu(norm.to(dtype), [x], StartOfVideo()).read(0, x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=2e-2, rtol=2e-2)


def test_gradients_with_and_without_chunks_reach_every_parameter():
    for coding in ("whole", "chunked"):
        model = fill_model(VAE(SMALL))
        pixels, latents = model(fill("x", (1, 3, 17, 16, 16)), coding=coding)
        (pixels.square().mean() + latents.kl().mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_inference_equals_training_forward(vae):
    """Without gradients some steps write in place; the numbers must not notice."""
    x = fill("x", (1, 3, 9, 16, 16))
    with torch.no_grad():
        quiet = vae.decode(vae.encode(x).mode())
    with torch.enable_grad():
        torch.testing.assert_close(vae.decode(vae.encode(x).mode()), quiet, atol=1e-6, rtol=1e-6)
    assert torch.equal(x, fill("x", (1, 3, 9, 16, 16)))


def test_samples_depend_on_the_generator_alone(vae):
    found = vae.encode(fill("x", (1, 3, 5, 16, 16)))
    one, same = (found.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same)
    noise = torch.randn(found.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(one, found.mean + noise * torch.exp(found.logvar / 2))


# Table 1: base, A, B (the released one), C, D, E
@pytest.mark.parametrize(
    ("space", "time", "channels"), [(8, 1, 4), (8, 4, 8), (8, 4, 16), (8, 4, 32), (8, 8, 32), (16, 8, 128)]
)
def test_every_row_of_table_1_is_a_setting(space, time, channels):
    widths = (4, 4, 8, 8) if space == 8 else (4, 4, 8, 8, 8)
    config = VAEConfig(
        block_out_channels=widths, layers_per_block=1, norm_num_groups=2, latent_channels=channels,
        temporal_compression_ratio=time, time_kernel=1 if time == 1 else 3,
    )  # fmt: skip
    model = fill_model(VAE(config)).requires_grad_(False)
    assert config.spatial_compression_ratio == space
    latents = model.encode(fill("x", (1, 3, 17, 32, 32))).mean
    assert latents.shape == (1, channels, (17 - 1) // time + 1, 32 // space, 32 // space)
    assert model.decode(latents).shape == (1, 3, 17, 32, 32)


def test_the_released_file_reads_and_writes_back():
    released = SMALL.released()
    assert released["down_block_types"] == ["CogVideoXDownBlock3D"] * 4 and released["latents_mean"] is None
    assert VAEConfig.parse(released | {"_diffusers_version": "0.31.0"}) == SMALL


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"temporal_compression_ratio": 3}, "power of two"), ({"norm_num_groups": 7}, "not divisible"),
     ({"chunk_frames": 6}, "multiple"), ({"chunk_latents": 3}, "even"), ({"act_fn": "relu"}, "only 'silu'"),
     ({"latent_chanels": 4}, "latent_channels")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        VAEConfig.parse(setting)


def test_shapes_that_cannot_be_coded_are_refused(vae):
    with pytest.raises(SizeError, match="height 20: .* try 16 or 24"):
        vae.encode(torch.zeros(1, 3, 1, 20, 16))
    with pytest.raises(SizeError, match="expected"):
        vae.decode(torch.zeros(1, 5, 1, 2, 2))
    with pytest.raises(FrameError, match="no frame"):
        vae.encode(torch.zeros(1, 3, 0, 16, 16))
    with pytest.raises(ConfigError, match="chunked"):
        vae.encode(torch.zeros(1, 3, 1, 16, 16), coding="wholly")


def test_settings_are_read_without_torch():
    code = "import sys; from cogvideox.vae import VAEConfig; VAEConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_huge_inputs_are_convolved_in_pieces_of_time(monkeypatch):
    conv = fill_model(CausalConv3d(2, 3)).requires_grad_(False)
    x = fill("x", (1, 2, 7, 4, 4))
    at_once = conv(x, StartOfVideo())
    monkeypatch.setattr("cogvideox.vae.frames.MOST_ELEMENTS", 100)
    torch.testing.assert_close(conv(x, StartOfVideo()), at_once)
