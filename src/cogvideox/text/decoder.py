"""The decoder half of T5 v1.1, and the whole: text to text, under the released parameter names.

A decoder position attends to those before it (relative positions in one direction) and to all of the memory: the output
of the encoder, or of some other network.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cogvideox.text.t5 import GatedGELU, RMSNorm, T5Config, T5Encoder
from cogvideox.text.tokenizer import END, PAD

MASKED = -1e9  # added to a score, so that its weight is 0


class T5Decoder(nn.Module):
    """Embedded tokens ``[b, l, d]`` and memory ``[b, m, d]`` -> ``[b, l, d]``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.block = nn.ModuleList(_Block(config, index == 0) for index in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        memory: Float[Tensor, "b m d"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """``mask``: which positions of the memory may be attended to (default: all)."""
        causal_bias = cast(_Block, self.block[0]).sublayers[0].SelfAttention.causal_bias(x.shape[1])
        memory_bias = None if mask is None else torch.where(mask, 0.0, MASKED)[:, None, None].to(x.dtype)
        x = self.dropout(x)
        for block in self.block:
            own, cross, feed = cast(_Block, block).sublayers
            x = x + self.dropout(own.SelfAttention(own.layer_norm(x), None, causal_bias))
            x = x + self.dropout(cross.EncDecAttention(cross.layer_norm(x), memory, memory_bias))
            x = x + self.dropout(feed.DenseReluDense(feed.layer_norm(x)))
        return self.dropout(self.final_layer_norm(x))


class _Sublayer(nn.Module):
    """A norm and one of the three, under the released names."""

    layer_norm: RMSNorm
    SelfAttention: _Attention
    EncDecAttention: _Attention
    DenseReluDense: GatedGELU


class _Block(nn.Module):
    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        own, cross, feed = _Sublayer(), _Sublayer(), _Sublayer()
        own.SelfAttention = _Attention(config, first)
        cross.EncDecAttention = _Attention(config, False)
        feed.DenseReluDense = GatedGELU(config)
        for layer in (own, cross, feed):
            layer.layer_norm = RMSNorm(config)
        self.layer = nn.ModuleList([own, cross, feed])

    @property
    def sublayers(self) -> tuple[_Sublayer, _Sublayer, _Sublayer]:
        own, cross, feed = (cast(_Sublayer, each) for each in self.layer)
        return own, cross, feed


class _Attention(nn.Module):
    """softmax(q k + bias) v, with keys and values from the memory when there is one."""

    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.config = config
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )

    def forward(self, x: Tensor, memory: Tensor | None, bias: Tensor | None) -> Tensor:
        source = x if memory is None else memory
        heads = (self.config.num_heads, self.config.d_kv)
        q, k, v = (
            project(given).unflatten(-1, heads).transpose(1, 2)
            for project, given in ((self.q, x), (self.k, source), (self.v, source))
        )
        drop = self.config.dropout_rate if self.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))

    def causal_bias(self, length: int) -> Float[Tensor, "1 k l l"]:
        """The bias of each head by distance; later positions are masked."""
        position = torch.arange(length, device=self.relative_attention_bias.weight.device)
        back = position[:, None] - position[None]
        c = self.config
        index = causal_buckets(
            back.clamp(min=0), c.relative_attention_num_buckets, c.relative_attention_max_distance
        )
        bias = F.embedding(index, self.relative_attention_bias.weight).permute(2, 0, 1)[None]
        return bias.masked_fill(back < 0, MASKED)


def causal_buckets(back: Int[Tensor, "l l"], count: int, largest: int) -> Int[Tensor, "l l"]:
    """The bucket of a distance into the past: exact up to half of ``count``, logarithmic from there to ``largest``."""
    exact = count // 2
    scale = (count - exact) / math.log(largest / exact)
    log = exact + (torch.log(back.clamp(min=1).float() / exact) * scale).long()
    return torch.where(back < exact, back, log.clamp(max=count - 1))


class T5(nn.Module):
    """Text to text: encoder, decoder, head. The names are those of the released T5 v1.1 and Flan-T5 files."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        reader = T5Encoder(config)
        self.config = config
        self.shared, self.encoder, self.dropout = reader.shared, reader.encoder, reader.dropout
        self.decoder = T5Decoder(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def encode(self, ids: Int[Tensor, "b m"]) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b m"]]:
        """The encoder's output for padded token ids, and the mask of those that are no padding."""
        mask = ids != PAD
        return T5Encoder.forward(self, ids, mask), mask  # type: ignore[arg-type]

    def forward(self, ids: Int[Tensor, "b m"], decoder_ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Scores of each next token; ``decoder_ids`` begin with PAD."""
        memory, mask = self.encode(ids)
        return self.lm_head(self.decoder(self.shared(decoder_ids), memory, mask))

    def initialise(self, generator: torch.Generator | None = None) -> T5:
        """Random weights to train from; returns itself."""
        T5Encoder.initialise(self, generator)  # type: ignore[arg-type]
        return self


@torch.no_grad()
def greedy_decode(
    embed: nn.Embedding,
    decoder: T5Decoder,
    head: nn.Linear,
    memory: Float[Tensor, "b m d"],
    mask: Bool[Tensor, "b m"] | None,
    longest: int,
) -> list[list[int]]:
    """Greedy decoding: the likeliest next token until the end or ``longest`` tokens; ids without the end token."""
    ids = torch.full((len(memory), 1), PAD, dtype=torch.long, device=memory.device)
    ended = torch.zeros(len(memory), dtype=torch.bool, device=memory.device)
    for _ in range(longest):
        scores = head(decoder(embed(ids), memory, mask)[:, -1])
        scores[:, PAD] = -torch.inf
        following = torch.where(ended, PAD, scores.argmax(-1))
        ids = torch.cat([ids, following[:, None]], dim=1)
        ended |= following == END
        if bool(ended.all()):
            break
    return [[token for token in tokens if token not in (PAD, END)] for tokens in ids.tolist()]
