"""Weights to start a training from: those of the official training code, drawn by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cogvideox.noise import generator
from cogvideox.transformer.transformer import FlatPatch, Transformer

STD = 0.02


@torch.no_grad()
def initialise(transformer: Transformer, seed: int) -> Transformer:
    """Fill all weights in place, and return the transformer.

    adaLN starts at zero, so that each layer starts as the identity; patches in and out are Xavier-uniform;
    attention and feed forward N(0, 0.02), their output projections narrower by sqrt(2 · layers); text
    projection and time embedding as PyTorch's default weights. All biases start at zero. Every module draws
    from (seed, its name): adding a module changes no other.
    """
    for name, module in transformer.named_modules():
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.reset_parameters()
        elif isinstance(module, nn.Linear | FlatPatch):
            _rule(name, transformer.config.num_layers)(module.weight, generator(seed, f"transformer/{name}"))
            if module.bias is not None:
                module.bias.zero_()
    if transformer.config.use_learned_positional_embeddings:
        _sinusoidal_start(transformer)
    return transformer


def _rule(name: str, layers: int) -> Callable[[Tensor, torch.Generator], object]:
    parts = name.split(".")
    if parts[0].startswith("norm_") or "norm1" in parts or "norm2" in parts:
        return lambda weight, _: weight.zero_()
    if name in ("patch_embed.proj", "proj_out"):
        return lambda weight, source: nn.init.xavier_uniform_(weight.flatten(1), generator=source)
    if parts[0] != "transformer_blocks":
        return lambda weight, source: nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=source)
    narrow = "to_out" in parts or ("net" in parts and "proj" not in parts)
    std = STD / math.sqrt(2 * layers) if narrow else STD
    return lambda weight, source: nn.init.normal_(weight, std=std, generator=source)


def _sinusoidal_start(transformer: Transformer) -> None:
    embed = transformer.patch_embed
    embed.pos_embedding.zero_()
    table = embed.sinusoidal.table(embed.native_grid, embed.pos_embedding.device)
    embed.pos_embedding[0, transformer.config.max_text_seq_length :] = table.to(embed.pos_embedding.dtype)
