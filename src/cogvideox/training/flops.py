"""FLOPs and activations of a step of the transformer, counted on the real network without memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from cogvideox.memory.count import count, kept
from cogvideox.transformer import Transformer, TransformerConfig

Sample = tuple[tuple[int, ...], int]
"""A clip of a microbatch: (c, t, h, w) of its latents, and its text tokens."""


class FlopCounter:
    """Costs of a transformer of these settings; every shape is counted once."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        with torch.device("meta"):
            self.network = Transformer(config)
        self.forward = cache(self._forward)

    def flops(self, samples: Sequence[Sample], frozen: bool) -> float:
        """FLOPs of a microbatch forward and back; weights that are ``frozen`` need no gradients of their own."""
        return (2 if frozen else 3) * sum(self.forward(sample) for sample in samples)

    def activations(self, samples: Sequence[Sample], recompute: bool) -> float:
        """Bytes a microbatch keeps for backward in float32: everything, or all blocks' inputs and one whole block."""
        clips, texts, times = zip(*(self._given(sample) for sample in samples), strict=True)
        full = kept(lambda: self.network.forward_packed(clips, texts, torch.cat(times)))
        if not recompute:
            return float(full)
        layers = self.config.num_layers
        return (
            layers * sum(self._tokens(sample) for sample in samples) * self.config.width * 4 + full / layers
        )

    def _forward(self, sample: Sample) -> int:
        clip, text, t = self._given(sample)
        return count(lambda: self.network(clip[None], text[None], t)).flops

    def _given(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        (_, t, h, w), text_len = sample
        frames = -(-t // self.config.patch[0]) * self.config.patch[0]
        with torch.device("meta"):
            return (
                torch.empty(self.config.in_channels, frames, h, w),
                torch.empty(text_len, self.config.text_embed_dim),
                torch.empty(1),
            )

    def _tokens(self, sample: Sample) -> int:
        (_, t, h, w), text_len = sample
        pt, ph, pw = self.config.patch
        return text_len + -(-t // pt) * (h // ph) * (w // pw)
