"""Settings and shapes of a network's tensors, either from the other: single files have no ``config.json``.

Shapes tell widths, depth, channels and patches. What they do not tell (native size, interpolation of positions, rotary
or not) comes from the model that a file is used with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from cogvideox.checkpoints.tensors import shapes_of
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.vae import VAE, VAEConfig

PATCH = "patch_embed.proj.weight"
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
HEAD = 64
"""Channels of one head of every public model, where no norm of queries tells."""
FIRST_BLOCK = "transformer_blocks.0."
Shapes = Mapping[str, tuple[int, ...]]


def blocks_settings(shapes: Shapes) -> dict[str, Any]:
    """Widths, depth and patches of a transformer or a ControlNet, by the names of its config; {} for other tensors."""
    patch, text = shapes.get(PATCH, ()), shapes.get("patch_embed.text_proj.weight", ())
    time = shapes.get("time_embedding.linear_1.weight", ())
    in_time = len(patch) == 2
    if len(patch) not in (2, 4) or len(text) != 2 or len(time) != 2 or (in_time and patch[1] % 8):
        return {}
    head = shapes.get("transformer_blocks.0.attn1.norm_q.weight", (HEAD,))[0] or HEAD
    numbers = [int(match[1]) for name in shapes if (match := BLOCK.match(name))]
    return {
        "num_attention_heads": patch[0] // head,
        "attention_head_dim": head,
        "num_layers": max(numbers, default=-1) + 1,
        "text_embed_dim": text[1],
        "time_embed_dim": time[0],
        "patch_size": 2 if in_time else patch[2],
        "patch_size_t": 2 if in_time else None,
        "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in shapes,
    }


def transformer_settings(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a transformer's tensors tell, by the names of its config; {} for what is none."""
    settings, out = blocks_settings(shapes), shapes.get("proj_out.weight", ())
    if not settings or len(out) != 2:
        return {}
    values = settings["patch_size"] ** 2 * (settings["patch_size_t"] or 1)
    ofs, patch = shapes.get("ofs_embedding.linear_1.weight"), shapes[PATCH]
    return settings | {
        "in_channels": patch[1] if len(patch) == 4 else patch[1] // values,
        "out_channels": out[0] // values,
        "ofs_embed_dim": ofs[-1] if ofs else None,
        "use_learned_positional_embeddings": "patch_embed.pos_embedding" in shapes,
    }


def controlnet_settings(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a ControlNet's tensors tell, by the names of its config; {} for what is none."""
    settings, first = blocks_settings(shapes), shapes.get("controlnet_encode_first.0.weight", ())
    if not settings or len(first) != 4 or len(shapes[PATCH]) != 4:
        return {}
    out = shapes.get("out_projectors.0.weight")
    return settings | {
        "vae_channels": shapes[PATCH][1] - first[1] // 4,
        "downscale_coef": round((first[1] / 3) ** 0.5),
        "out_proj_dim": out[0] if out else None,
    }


def is_vae(names: Collection[str]) -> bool:
    """Whether tensors are those of a VAE as diffusers names them."""
    return {"encoder.conv_in.conv.weight", "decoder.conv_in.conv.weight"} <= set(names)


def meta_names(config: TransformerConfig | VAEConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a network, none allocated; all blocks are alike, so one is built."""
    with torch.device("meta"):
        if isinstance(config, VAEConfig):
            return shapes_of(VAE(config).state_dict())
        shapes = shapes_of(Transformer(config.changed(num_layers=1)).state_dict())
    first = {name: shape for name, shape in shapes.items() if name.startswith(FIRST_BLOCK)}
    return shapes | {
        f"transformer_blocks.{number}.{name.removeprefix(FIRST_BLOCK)}": shape
        for number in range(1, config.num_layers)
        for name, shape in first.items()
    }
