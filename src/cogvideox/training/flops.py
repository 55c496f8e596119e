"""What a step of the transformer costs, counted on the real network without memory: FLOPs, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from cogvideox.memory.count import count, kept
from cogvideox.transformer import Transformer, TransformerConfig

Sample = tuple[tuple[int, ...], int]
"""A clip of a row: (c, t, h, w) of its latents, and its text tokens."""


class FlopCounter:
    """Costs of a transformer of these settings; every shape is counted once."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        with torch.device("meta"):
            self.network = Transformer(config)
        self.forward = cache(self._forward)

    def flops(self, row: Sequence[Sample], frozen: bool) -> float:
        """FLOPs of a row forwards and back; weights that are ``frozen`` need no gradients of their own."""
        return (2 if frozen else 3) * sum(self.forward(sample) for sample in row)

    def activations(self, row: Sequence[Sample], recompute: bool) -> float:
        """Bytes a row keeps for the way back in float32: everything, or the blocks' inputs and one whole block."""
        clips, texts, times = zip(*(self._given(sample) for sample in row), strict=True)
        full = kept(lambda: self.network.forward_packed(clips, texts, torch.cat(times)))
        if not recompute:
            return float(full)
        layers = self.config.num_layers
        return layers * sum(self._tokens(sample) for sample in row) * self.config.width * 4 + full / layers

    def _forward(self, sample: Sample) -> int:
        clip, text, t = self._given(sample)
        return count(lambda: self.network(clip[None], text[None], t), fuse=False).flops

    def _given(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        (_, t, h, w), words = sample
        frames = -(-t // self.config.patch[0]) * self.config.patch[0]
        with torch.device("meta"):
            return (
                torch.empty(self.config.in_channels, frames, h, w),
                torch.empty(words, self.config.text_embed_dim),
                torch.empty(1),
            )

    def _tokens(self, sample: Sample) -> int:
        (_, t, h, w), words = sample
        pt, ph, pw = self.config.patch
        return words + -(-t // pt) * (h // ph) * (w // pw)
