"""One adapter of a small 5B, in the spellings that trainers leave it in."""

from __future__ import annotations

import torch

WIDTH, RANK, ALPHA = 32, 4, 2.0
ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
LAYERS = [f"transformer_blocks.{block}.{leaf}" for block in (0, 1) for leaf in ATTENTION]


def matrices(seed=3):
    torch.manual_seed(seed)
    return {layer: (torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK)) for layer in LAYERS}


def dotted(before, a="lora_A.weight", b="lora_B.weight", respell=lambda layer: layer):
    """Tensors named BEFORE + layer + '.' + side."""
    return {
        f"{before}{respell(layer)}.{side}": tensor
        for layer, pair in matrices().items()
        for side, tensor in zip((a, b), pair, strict=True)
    }


def kohya(before, **sides):
    sides = sides or {"a": "lora_down.weight", "b": "lora_up.weight"}
    tensors = dotted(before, sides["a"], sides["b"], lambda layer: layer.replace(".", "_"))
    names = {name.partition(".")[0] for name in tensors}
    return tensors | {f"{name}.alpha": torch.tensor(ALPHA) for name in names}


def processors(before):
    """diffusers before PEFT."""

    def respell(layer):
        block, _, leaf = layer.partition(".attn1.")
        return f"{block}.attn1.processor.{leaf.removesuffix('.0')}_lora"

    return dotted(before, "down.weight", "up.weight", respell)


def sat(before):
    tensors, found = {}, matrices()
    for block in (0, 1):
        attention = f"{before}transformer.layers.{block}.attention"
        parts = [found[f"transformer_blocks.{block}.{leaf}"] for leaf in ATTENTION]
        for place, (a, b) in enumerate(parts[:3]):
            tensors[f"{attention}.query_key_value.matrix_A.{place}"] = a
            tensors[f"{attention}.query_key_value.matrix_B.{place}"] = b * ALPHA
        tensors[f"{attention}.dense.matrix_A.0"], tensors[f"{attention}.dense.matrix_B.0"] = (
            parts[3][0],
            parts[3][1] * ALPHA,
        )
    return tensors
