"""The decoder half of T5 v1.1, and the whole: text to text, under the released parameter names.

A decoder position sees those before it (relative positions in one direction) and all of the memory: what the encoder
read, or what some other network saw.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cogvideox.text.t5 import GatedGELU, RMSNorm, T5Config, T5Encoder
from cogvideox.text.tokenizer import END, PAD

FAR = -1e9  # added to the score of what must not be seen


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
        seen: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """``seen`` says which places of the memory hold something."""
        past = self.block[0].layer[0].SelfAttention.past(x.shape[1])
        far = None if seen is None else torch.where(seen, 0.0, FAR)[:, None, None].to(x.dtype)
        x = self.dropout(x)
        for block in self.block:
            own, cross, feed = block.layer[0], block.layer[1], block.layer[2]
            x = x + self.dropout(own.SelfAttention(own.layer_norm(x), None, past))
            x = x + self.dropout(cross.EncDecAttention(cross.layer_norm(x), memory, far))
            x = x + self.dropout(feed.DenseReluDense(feed.layer_norm(x)))
        return self.dropout(self.final_layer_norm(x))


class _Block(nn.Module):
    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        own, cross, feed = nn.Module(), nn.Module(), nn.Module()
        own.SelfAttention = _Attention(config, first)
        cross.EncDecAttention = _Attention(config, False)
        feed.DenseReluDense = GatedGELU(config)
        for layer in (own, cross, feed):
            layer.layer_norm = RMSNorm(config)
        self.layer = nn.ModuleList([own, cross, feed])


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
        given = x if memory is None else memory
        heads = (self.config.num_heads, self.config.d_kv)
        q, k, v = (
            project(source).unflatten(-1, heads).transpose(1, 2)
            for project, source in ((self.q, x), (self.k, given), (self.v, given))
        )
        drop = self.config.dropout_rate if self.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, scale=1.0)
        return self.o(read.transpose(1, 2).flatten(2))

    def past(self, length: int) -> Float[Tensor, "1 k l l"]:
        """The bias of each head by distance; what comes later is out of sight."""
        place = torch.arange(length, device=self.relative_attention_bias.weight.device)
        back = place[:, None] - place[None]
        c = self.config
        rows = buckets_back(
            back.clamp(min=0), c.relative_attention_num_buckets, c.relative_attention_max_distance
        )
        bias = F.embedding(rows, self.relative_attention_bias.weight).permute(2, 0, 1)[None]
        return bias.masked_fill(back < 0, FAR)


def buckets_back(back: Int[Tensor, "l l"], count: int, largest: int) -> Int[Tensor, "l l"]:
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

    def read(self, ids: Int[Tensor, "b m"]) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b m"]]:
        """What the encoder makes of padded token ids, and where there are any."""
        seen = ids != PAD
        return T5Encoder.forward(self, ids, seen), seen  # type: ignore[arg-type]

    def forward(self, ids: Int[Tensor, "b m"], told: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Scores of each next token, for ``told`` that begins with PAD."""
        memory, seen = self.read(ids)
        return self.lm_head(self.decoder(self.shared(told), memory, seen))

    def initialise(self, generator: torch.Generator | None = None) -> T5:
        """Random weights to train from; returns itself."""
        T5Encoder.initialise(self, generator)  # type: ignore[arg-type]
        return self


@torch.no_grad()
def write(
    embed: nn.Embedding,
    decoder: T5Decoder,
    head: nn.Linear,
    memory: Float[Tensor, "b m d"],
    seen: Bool[Tensor, "b m"] | None,
    longest: int,
) -> list[list[int]]:
    """The likeliest next token again and again, until the end or ``longest`` tokens; without the end token."""
    told = torch.full((len(memory), 1), PAD, dtype=torch.long, device=memory.device)
    ended = torch.zeros(len(memory), dtype=torch.bool, device=memory.device)
    for _ in range(longest):
        scores = head(decoder(embed(told), memory, seen)[:, -1])
        scores[:, PAD] = -torch.inf
        following = torch.where(ended, PAD, scores.argmax(-1))
        told = torch.cat([told, following[:, None]], dim=1)
        ended |= following == END
        if bool(ended.all()):
            break
    return [[token for token in row if token not in (PAD, END)] for row in told.tolist()]
