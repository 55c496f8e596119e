"""A small transformer, a packed row of two videos and two images, and its gradients."""

from __future__ import annotations

import torch

from cogvideox.transformer import Transformer, TransformerConfig, initialise

SMALL = dict(
    num_attention_heads=2, attention_head_dim=32, num_layers=2, in_channels=4, out_channels=4,
    time_embed_dim=16, text_embed_dim=12, max_text_seq_length=5, sample_height=8, sample_width=12,
    sample_frames=9, use_rotary_positional_embeddings=True,
)  # fmt: skip
SIZES = [(3, 8, 12), (1, 4, 6), (5, 6, 4), (1, 8, 8)]  # two videos and two images, none of one shape
WORDS = (5, 3, 4, 2)


def model(**settings) -> Transformer:
    network = initialise(Transformer(TransformerConfig(**SMALL | settings)), 0)
    for index, value in enumerate(network.parameters()):  # zero gates would hide what attention does
        torch.nn.init.normal_(value, std=0.05, generator=torch.Generator().manual_seed(index))
    return network


def row():
    draw = torch.Generator().manual_seed(1)
    clips = [torch.randn(4, *size, generator=draw) for size in SIZES]
    texts = [torch.randn(words, 12, generator=draw) for words in WORDS]
    return clips, texts, torch.tensor([3, 500, 999, 41])


def gradients(network, outputs) -> dict[str, torch.Tensor]:
    network.zero_grad()
    sum(out.square().mean() for out in outputs).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters()}
