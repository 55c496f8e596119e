"""Rotary, sinusoidal and learned positions. Golden numbers: diffusers 0.42.1."""

import math

import pytest
import torch

from cogvideox.errors import ConfigError, SizeError
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.position import (
    Rotary,
    Sinusoidal,
    apply_rotary_emb,
    coordinates,
    crop_region,
    learned_positions,
    repeats_after,
    riflex,
)
from cogvideox.transformer.transformer import sinusoid

BASE = (30, 45)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("grid", "top_left", "bottom_right"),
    [
        ((30, 45), (0, 0), (30, 45)),
        ((30, 30), (0, 8), (30, 38)),
        ((48, 85), (2, 0), (27, 45)),
        ((45, 30), (0, 12), (30, 32)),
    ],
)
def test_resampled_grid_covers_the_released_region(grid, top_left, bottom_right):
    top, left, height, width = crop_region(*grid, BASE)
    assert ((top, left), (top + height, left + width)) == (top_left, bottom_right)


def test_native_size_gives_integers_in_both_modes():
    modes = (coordinates(TokenGrid(5, 30, 45), mode, BASE) for mode in ("slice", "resample"))
    for one, other in zip(*modes, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_rotary_golden_numbers():
    rotary_emb = Rotary(64, "resample", BASE).table(Layout.plain(0, TokenGrid(13, 30, 45)), CPU)
    token = rotary_emb[(5 * 30 + 7) * 45 + 11, 0]
    channels = [channel // 2 for channel in (0, 2, 16, 18, 40, 42)]
    cos = [0.2836622, -0.0103423, 0.7539023, -0.9942253, 0.0044257, 0.3832928]
    sin = [-0.9589243, 0.9999465, 0.6569866, -0.1073124, -0.9999902, -0.9236269]
    assert token.real[channels].tolist() == pytest.approx(cos, abs=1e-5)
    assert token.imag[channels].tolist() == pytest.approx(sin, abs=1e-5)


def test_text_is_not_turned():
    rotary_emb = Rotary(32, "slice", (4, 4)).table(Layout.plain(3, TokenGrid(2, 2, 2)), CPU)
    x = torch.randn(1, 11, 2, 32)
    assert torch.equal(apply_rotary_emb(x, rotary_emb)[:, :3], x[:, :3])
    assert torch.allclose(apply_rotary_emb(x, rotary_emb).norm(dim=-1), x.norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_scores_depend_on_distance_alone(head_dim):
    grid = TokenGrid(4, 5, 6)
    rotary_emb = Rotary(head_dim, "slice", (4, 4)).table(Layout.plain(0, grid), CPU)
    q, k = torch.randn(head_dim), torch.randn(head_dim)

    def score(a, b):
        i, j = ((t * grid.h + h) * grid.w + w for t, h, w in (a, b))
        one, other = (
            apply_rotary_emb(q[None, None, None], rotary_emb[i : i + 1]),
            apply_rotary_emb(k[None, None, None], rotary_emb[j : j + 1]),
        )
        return (one * other).sum().item()

    assert score((0, 1, 2), (1, 3, 3)) == pytest.approx(score((2, 2, 4), (3, 4, 5)), abs=1e-4)


def test_sinusoidal_golden_numbers():
    table = Sinusoidal(1920, 1.875, 1.0).table(TokenGrid(13, 30, 45)).unflatten(0, (13, 1350))
    expected = {
        (1, 0, 0): 0.84147098, (1, 0, 1): 0.82053744, (1, 0, 240): 0.54030231, (0, 1, 480): 0.50840657,
        (0, 1, 840): 0.86111715, (0, 45, 480): 0, (0, 45, 1200): 0.50840657, (12, 1349, 0): -0.53657292,
        (12, 1349, 480): -0.99546451, (12, 1349, 1919): 0.99999874,
    }  # fmt: skip
    for place, value in expected.items():
        assert table[place].item() == pytest.approx(value, abs=1e-6), place


def test_time_and_ofs_sinusoids_golden_numbers():
    time = sinusoid(torch.tensor([999]), 1920)[0, [0, 1, 959, 960, 961, 1919]].tolist()
    expected = [0.9996498, -0.9901626, 0.9949176, -0.0264608, 0.1399215, 0.1006921]
    assert time == pytest.approx(expected, abs=1e-5)
    ofs = sinusoid(torch.tensor([2.0]), 512)[0, [0, 1, 255, 256, 257, 511]].tolist()
    assert ofs == pytest.approx([-0.4161468, -0.3508952, 1.0, 0.9092974, 0.9364148, 0.00020733], abs=1e-6)


def test_unflipped_sinusoid_starts_with_sine():
    flipped, plain = (sinusoid(torch.tensor([3.0]), 8, flip)[0] for flip in (True, False))
    assert torch.equal(plain, flipped.roll(4))
    assert plain[0].item() == pytest.approx(math.sin(3.0))


NATIVE = TokenGrid(3, 2, 4)


def learned(words=2, grid=NATIVE):
    table = torch.arange(1, 1 + 5 + 24.0)[None, :, None].expand(1, -1, 16)
    return learned_positions(table, words, grid, NATIVE, 5, Sinusoidal(16, 1.875, 1.0))


def test_learned_rows_start_after_all_text_rows():
    words, video = learned()
    assert words[:, 0].tolist() == [1, 2]
    assert video[:, 0].tolist() == list(range(6, 30))


def test_learned_positions_refuse_another_size_and_longer_text():
    with pytest.raises(SizeError, match="4x4.*2x4"):
        learned(grid=TokenGrid(3, 4, 4))
    with pytest.raises(ConfigError, match="text of 6 tokens.*5"):
        learned(words=6)


def test_learned_positions_warn_when_another_length_makes_them_sinusoidal():
    with pytest.warns(UserWarning, match="2 latent frames.*3"):
        words, video = learned(grid=TokenGrid(2, 2, 4))
    assert not words.any()
    assert torch.equal(video, Sinusoidal(16, 1.875, 1.0).table(TokenGrid(2, 2, 4)))


def test_tables_cached_while_inferring_can_be_trained_with():
    rotary, layout = Rotary(16, "slice", (9, 9)), Layout.plain(0, TokenGrid(1, 5, 2))
    with torch.inference_mode():
        rotary.table(layout, CPU)
    rotary_emb = rotary.table(layout, CPU)
    x = torch.randn(1, 10, 1, 16, requires_grad=True)
    apply_rotary_emb(x, rotary_emb).sum().backward()
    assert x.grad is not None


def test_ntk_is_slice_up_to_the_native_grid_and_slows_only_slow_channels_beyond():
    from cogvideox.transformer.layout import TokenGrid
    from cogvideox.transformer.position import _angles

    base, dim = (4, 6), 64
    assert torch.equal(
        _angles(TokenGrid(2, 4, 6), dim, "ntk", base), _angles(TokenGrid(2, 4, 6), dim, "slice", base)
    )
    large = TokenGrid(2, 8, 12)  # twice the native grid
    ntk, plain = (_angles(large, dim, mode, base).unflatten(0, large) for mode in ("ntk", "slice"))
    assert torch.equal(ntk[..., : dim // 8], plain[..., : dim // 8])  # time
    fastest, slowest = dim // 8, dim // 8 + dim // 16 * 3 - 1  # the first and last channel of the height
    assert torch.equal(ntk[..., fastest], plain[..., fastest])
    assert torch.allclose(ntk[..., slowest], plain[..., slowest] / 2, rtol=1e-5)


# RIFLEx


def angles_in_time(rotary, frames):
    """By how much each of the channels in time turns from one frame to the next."""
    table = rotary.table(Layout.plain(0, TokenGrid(frames, 2, 2)), CPU)
    return table[4, 0].angle()[: rotary.head_dim // 8].double()


PLAIN_FREQUENCIES = [10_000 ** (-2 * (j - 1) / 16) for j in range(1, 9)]


def test_riflex_slows_the_second_frequency_of_the_released_models():
    """Golden: 97 frames are 25 latent ones, 0.9 * 2 pi / 25 = .226195 in the place of 10000^(-1/8) = .316228."""
    rotary = Rotary(64, "resample", BASE, frames=13)
    plain = angles_in_time(rotary, 25)
    assert plain.tolist() == pytest.approx(PLAIN_FREQUENCIES, abs=1e-6)
    with riflex(rotary):
        slowed = angles_in_time(rotary, 25)
        whole = rotary.table(Layout.plain(2, TokenGrid(25, 3, 4)), CPU)
    assert rotary.riflex is None
    assert slowed.tolist() == pytest.approx([1.0, 0.226195, *PLAIN_FREQUENCIES[2:]], abs=1e-6)
    before = rotary.table(Layout.plain(2, TokenGrid(25, 3, 4)), CPU)
    others = [channel for channel in range(32) if channel != 1]
    assert torch.equal(whole[:, :, others], before[:, :, others]) and not torch.equal(whole, before)


@pytest.mark.parametrize("frames", [13, 20])
def test_riflex_leaves_a_video_alone_that_does_not_repeat(frames):
    rotary, layout = Rotary(64, "resample", BASE, frames=13), Layout.plain(0, TokenGrid(frames, 2, 2))
    plain = rotary.table(layout, CPU)
    with riflex(rotary):
        assert torch.equal(rotary.table(layout, CPU), plain)


def test_weights_that_were_trained_with_riflex_have_it_at_every_length():
    rotary = Rotary(64, "resample", BASE, frames=13, riflex=25)
    for frames in (13, 25, 40):
        assert angles_in_time(rotary, frames)[1].item() == pytest.approx(0.226195, abs=1e-6)


@pytest.mark.parametrize(
    ("head_dim", "trained", "period"), [(64, 13, 20), (64, 11, 20), (32, 5, 7), (64, 30, 63)]
)
def test_the_frequency_that_repeats_is_found(head_dim, trained, period):
    assert repeats_after(head_dim, trained) == period


def test_riflex_is_a_setting_of_a_model():
    from cogvideox.transformer import Transformer, TransformerConfig

    settings = dict(
        num_attention_heads=2, attention_head_dim=64, num_layers=1, use_rotary_positional_embeddings=True,
        time_embed_dim=16, text_embed_dim=8,
    )  # fmt: skip
    plain = Transformer(TransformerConfig(**settings)).rotary
    own = Transformer(TransformerConfig(**settings, position_mode="riflex")).rotary
    fixed = Transformer(TransformerConfig(**settings, position_mode="riflex", riflex_frames=25)).rotary
    assert (plain.mode, plain.riflex, plain.frames) == ("resample", None, 13)
    assert (own.mode, own.riflex, fixed.riflex) == ("resample", 0, 25)
    assert (
        Transformer(TransformerConfig(**settings, patch_size_t=2, position_mode="riflex")).rotary.mode
        == "slice"
    )
    assert TransformerConfig(patch_size_t=2, sample_frames=81).native_patches_t == 11
    with pytest.raises(ConfigError, match="riflex_frames 25: has no effect with position_mode 'resample'"):
        TransformerConfig(**settings, riflex_frames=25)
    with pytest.raises(ConfigError, match="rotary positions"):
        TransformerConfig(position_mode="riflex")
