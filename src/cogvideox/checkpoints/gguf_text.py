"""A T5 encoder from a GGUF file, named by llama.cpp's converter."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from cogvideox.checkpoints.gguf_file import read_container
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.errors import CheckpointError

ARCHITECTURES = ("t5", "t5encoder")
BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
OUTSIDE = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
INSIDE = {
    "attn_q": "0.SelfAttention.q", "attn_k": "0.SelfAttention.k", "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o", "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm", "ffn_gate": "1.DenseReluDense.wi_0", "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo", "ffn_norm": "1.layer_norm",
}  # fmt: skip
"""Name in the file -> name in the network, of one layer (llama.cpp, MODEL_ARCH.T5ENCODER)."""
IGNORED = re.compile(r"(dec\.|output\.weight)")
"""The decoder half of a whole T5, which no video needs."""


def read_gguf_text(path: Path) -> QuantisedTensors:
    """The T5 encoder in a GGUF file. Raises CheckpointError for another network or a damaged file, DependencyError."""
    architecture, tensors = read_container(path, ours, torch.float32)
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: architecture {architecture!r}; only {' and '.join(ARCHITECTURES)} are text encoders here"
        )
    return tensors


def ours(name: str) -> str | None:
    """The name of a tensor in our network; one that is not known stays, and is named in an error later.

    None for those of the decoder.
    """
    if IGNORED.match(name):
        return None
    block = BLOCK.fullmatch(name)
    if block and block[2] in INSIDE:
        return f"encoder.block.{block[1]}.layer.{INSIDE[block[2]]}.weight"
    return OUTSIDE.get(name, name)
