"""Untrained models of a few thousand weights, for tests that need a whole model but not a good one."""

from __future__ import annotations

import numpy as np
import torch

from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.model import CogVideoX
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.vae import VAE, VAEConfig
from support.golden import fill, fill_model

WORDS, WIDTH = 5, 24


def toy_model(
    kind: str = "t2v", patch_size_t: int | None = None, shift: float = 1.0, **settings
) -> CogVideoX:
    """2 layers, 4 latent channels, 32x48 pixels, 9 frames; weights are the golden fill."""
    latent = 4
    vae = VAEConfig(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=latent,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
        sample_height=32,
        sample_width=48,
        invert_scale_latents=settings.pop("invert_scale_latents", False),
    )
    values = dict(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        in_channels=latent * (2 if kind == "i2v" else 1),
        out_channels=latent,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        max_text_seq_length=WORDS,
        sample_height=4,
        sample_width=6,
        sample_frames=9 if patch_size_t is None else 17,
        patch_size_t=patch_size_t,
        use_rotary_positional_embeddings=True,
    )
    transformer = Transformer(TransformerConfig(**(values | settings)))
    schedule = Schedule(ScheduleConfig(snr_shift_scale=shift))
    networks = fill_model(transformer), fill_model(VAE(vae))
    return CogVideoX.assemble(*networks, None, schedule, name="toy", kind=kind)


def toy_text() -> dict[str, torch.Tensor]:
    """Embeddings for a prompt and its negative, as arguments of generate."""
    shape = (1, WORDS, WIDTH)
    return {"prompt_embedding": fill("input.text", shape), "negative_embedding": fill("input.neg", shape)}


def toy_frames(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """uint8 [t, h, w, 3]."""
    values = (fill("toy.frames", (frames, height, width, 3)).numpy() + 1) * 127.5
    return values.round().astype(np.uint8)
