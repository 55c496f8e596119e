"""A whole untrained model folder of a few thousand weights, tokenizer included, for tests of commands."""

from __future__ import annotations

from pathlib import Path

import torch

from cogvideox.checkpoints import save_model
from cogvideox.text import T5Config, T5Encoder, TextEncoder, train_tokenizer
from support.toy import WIDTH, toy_model

TOKENS = 8


def write_toy(folder: Path, kind: str = "t2v") -> Path:
    """Write it to ``folder``: 32x48 pixels, 9 frames, 8 tokens."""
    model = toy_model(kind, max_text_seq_length=TOKENS)
    words = [
        f"a {colour} {shape} moves" for colour in ("red", "green", "blue") for shape in ("square", "circle")
    ]
    tokenizer = train_tokenizer(words * 3, vocabulary=40, max_tokens=TOKENS)
    config = T5Config(
        vocab_size=64,
        d_model=WIDTH,
        d_kv=8,
        d_ff=16,
        num_heads=2,
        num_layers=1,
    )
    encoder = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    model.text = TextEncoder(encoder, tokenizer, TOKENS)
    return Path(save_model(model, folder))
