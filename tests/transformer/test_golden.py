"""The five released variants, scaled down, against numbers made by diffusers 0.42.1 (float32, CPU)."""

import pytest
import torch

from cogvideox.transformer import Transformer, TransformerConfig
from support.golden import fill, fill_model, summary

SMALL = dict(
    num_attention_heads=2, num_layers=2, in_channels=4, out_channels=4, time_embed_dim=32, text_embed_dim=24,
    max_text_seq_length=5, sample_height=8, sample_width=12, sample_frames=9,
)  # fmt: skip
ROTARY = dict(use_rotary_positional_embeddings=True)
VARIANTS = {
    "2b": {},
    "5b": ROTARY,
    "5b-i2v": ROTARY | dict(in_channels=8, use_learned_positional_embeddings=True),
    "1.5-5b": ROTARY | dict(patch_size_t=2),
    "1.5-5b-i2v": ROTARY | dict(in_channels=8, patch_size_t=2, ofs_embed_dim=32),
}
# mean, mean |.|, then the flat elements at 0, 1, n//3, n//2, 2n//3, n-1 of [b, t, c, h, w]
ROWS = {
    "2b": [-.248504, .858256, .693307, .920157, -.322546, .337426, -.109245, -1.246855],
    "5b": [-.104474, .790850, .598476, .792591, -.743724, .376758, -.025164, -.001986],
    "5b-i2v": [-.091862, .828791, .983727, -.257017, -1.307787, -1.088745, 3.542121, -.529482],
    "1.5-5b": [-.018796, .863557, 4.089762, -1.354169, -1.230297, -1.783647, -.322184, -.664512],
    "1.5-5b-i2v": [-.066417, .920757, .968845, -.583824, -1.867523, 2.032065, .622678, -.701290],
}  # fmt: skip


def golden_model(name):
    return fill_model(Transformer(TransformerConfig(**SMALL | VARIANTS[name])))


@torch.no_grad()
def predicted(model, latents, text, timesteps):
    """v as frames before channels, the layout of the golden rows."""
    return model(latents.transpose(1, 2), text, torch.tensor(timesteps)).transpose(1, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_released_variants_give_the_golden_numbers(name):
    model = golden_model(name)
    frames = 4 if model.config.patch_size_t else 3
    latents = fill("input.video", (2, frames, model.config.in_channels, 8, 12))
    v = predicted(model, latents, fill("input.text", (2, 5, 24)), (999, 437))
    assert v.shape == (2, frames, 4, 8, 12)
    assert summary(v) == pytest.approx(ROWS[name], abs=1e-4)


def test_sinusoidal_positions_are_recomputed_for_another_size():
    latents, text = fill("input.video2", (1, 2, 4, 10, 16)), fill("input.text", (2, 5, 24))[:1]
    v = predicted(golden_model("2b"), latents, text, (999,))
    row = [-.085702, .891408, 1.993834, .922565, .790512, .227913, .246081, -1.724037]  # fmt: skip
    assert summary(v) == pytest.approx(row, abs=1e-4)
