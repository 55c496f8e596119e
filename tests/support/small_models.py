"""Small models for tests: the five public variants, narrow and shallow, with random weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from cogvideox.diffusion import Schedule
from cogvideox.model import CogVideoX
from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec
from cogvideox.transformer import Transformer
from cogvideox.vae import VAE

VARIANTS = ("2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v")


def small_preset(name: str) -> ModelSpec:
    """A public preset with every width cut down and every choice kept."""
    preset = get_preset(name)
    narrow = dict(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, time_embed_dim=16, text_embed_dim=12
    )
    size = dict(max_text_seq_length=6, sample_frames=9)
    if not preset.transformer_settings.get("patch_size_t"):
        size |= dict(sample_height=8, sample_width=12)
    if preset.transformer_settings.get("ofs_embed_dim"):
        size |= dict(ofs_embed_dim=16)
    vae = dict(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=64,
        sample_width=96,
    )
    return replace(
        preset,
        transformer_settings={**preset.transformer_settings, **narrow, **size},
        vae_settings={**preset.vae_settings, **vae},
    )


def small_model(name: str, dtype: torch.dtype = torch.float32) -> CogVideoX:
    """A model of ``small_preset`` with reproducible random weights and no text encoder."""
    preset = small_preset(name)
    torch.manual_seed(0)
    transformer, vae = Transformer(preset.transformer).eval(), VAE(preset.vae).eval()
    for value in [*transformer.parameters(), *vae.parameters()]:
        value.data = torch.randn_like(value).mul_(0.1).to(dtype)
    schedule = Schedule(preset.schedule)
    return CogVideoX.assemble(transformer, vae, None, schedule, name=name, kind=preset.kind)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Same names, types and bits."""
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in one
    )
