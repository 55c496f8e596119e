"""The encoder half of T5 v1.1 (Raffel et al. 2020, with gated GELU), under the released parameter names.

Relative positions are a bias on the scores, learned once and used in every layer; scores are not scaled;
norms have no mean and no shift. In float16 the last projection of the feed-forward layer stays float32 and
the stream is kept finite, as T5 overflows otherwise.
"""

from __future__ import annotations

import math
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.cpu_ops import Linear


class T5Config(Config):
    """Shape of the encoder, under the names of ``text_encoder/config.json``."""

    vocab_size: int = Field(32128, gt=0, le=1_048_576, description="tokens in the vocabulary")
    d_model: int = Field(4096, gt=0, le=65_536, description="width")
    d_kv: int = Field(64, gt=0, le=1024, description="width of a head")
    d_ff: int = Field(10240, gt=0, le=262_144, description="width inside the feed-forward layer")
    num_layers: int = Field(24, gt=0, le=512, description="layers")
    num_heads: int = Field(64, gt=0, le=1024, description="heads")
    relative_attention_num_buckets: int = Field(
        32, ge=4, le=4096, description="buckets that distances between tokens are sorted into"
    )
    relative_attention_max_distance: int = Field(
        128, gt=1, le=1_048_576, description="distance that all larger ones count as"
    )
    layer_norm_epsilon: float = Field(1e-6, gt=0, le=1, description="added to the mean square")
    feed_forward_proj: Literal["gated-gelu"] = Field("gated-gelu", description="T5 v1.1's activation")
    dropout_rate: float = Field(0.0, ge=0, lt=1, description="in training; loading for use does not need it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance {self.relative_attention_max_distance}: must be larger than half of "
                f"relative_attention_num_buckets {self.relative_attention_num_buckets}"
            )
        return self


class Embedding(nn.Embedding):
    """torch's table of vectors. On the meta device it draws no numbers: that reads in torch's compiler, a second."""

    def reset_parameters(self) -> None:
        """Normal numbers, but none on the meta device."""
        if not self.weight.is_meta:
            super().reset_parameters()


class T5Encoder(nn.Module):
    """Token ids to vectors. ``forward(ids [b, l]) -> [b, l, d_model]``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack()
        self.encoder.block = nn.ModuleList(_Block(config, index == 0) for index in range(config.num_layers))
        self.encoder.final_layer_norm = RMSNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """``mask``: which tokens may be attended to; None, as CogVideoX calls it, is all, padding included."""
        x = self.dropout(self.shared(ids))
        bias = cast(_Attend, cast(_Block, self.encoder.block[0]).layer[0]).SelfAttention.bias(
            ids.shape[1], x.device
        )
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None], -1e9)
        for block in self.encoder.block:
            for sublayer in cast(_Block, block).layer:
                x = _finite(sublayer(x, bias))
        return self.dropout(self.encoder.final_layer_norm(x))

    def initialise(self, generator: torch.Generator | None = None) -> T5Encoder:
        """The random weights that T5's training starts from; returns itself."""
        c = self.config
        std = {
            "shared": 1.0,
            "q": (c.d_model * c.d_kv) ** -0.5,
            "o": (c.num_heads * c.d_kv) ** -0.5,
            "wo": c.d_ff**-0.5,
        }
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                nn.init.ones_(weight)
            else:
                width = std.get(name.split(".")[-2], c.d_model**-0.5)
                nn.init.normal_(weight, std=width, generator=generator)
        return self


class RMSNorm(nn.Module):
    """x / sqrt(mean of squares), in float32, times a weight."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.layer_norm_epsilon

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """``x`` divided by the root of its mean square and multiplied by the weight."""
        normed = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)


class _Stack(nn.Module):
    block: nn.ModuleList
    final_layer_norm: RMSNorm


class _Block(nn.Module):
    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Attend(config, first), _FeedForward(config)])


class _Attend(nn.Module):
    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, first)
        self.layer_norm = RMSNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Float[Tensor, "b l d"], bias: Float[Tensor, "#b k l l"]) -> Float[Tensor, "b l d"]:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), bias))


class _FeedForward(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedGELU(config)
        self.layer_norm = RMSNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Float[Tensor, "b l d"], bias: Tensor) -> Float[Tensor, "b l d"]:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class SelfAttention(nn.Module):
    """softmax(q k + bias) v. Only the first layer owns the bias; all use it."""

    def __init__(self, config: T5Config, first: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.config = config
        self.q, self.k, self.v = (Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = Linear(inner, config.d_model, bias=False)
        if first:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x: Float[Tensor, "b l d"], bias: Float[Tensor, "#b k l l"]) -> Float[Tensor, "b l d"]:
        """What each token reads from the others; ``bias`` is added to the scores."""
        heads = (self.config.num_heads, self.config.d_kv)
        q, k, v = (project(x).unflatten(-1, heads).transpose(1, 2) for project in (self.q, self.k, self.v))
        drop = self.config.dropout_rate if self.training else 0.0
        mask = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=drop, scale=1.0)
        return self.o(mask.transpose(1, 2).flatten(2))

    def bias(self, length: int, device: torch.device) -> Float[Tensor, "1 k l l"]:
        """What each head adds to the score of a query and a key, by their distance; made on ``device``, once for all
        layers. A call of the layer, so that weights that wait elsewhere come."""
        position = torch.arange(length, device=device)
        distance = position[None] - position[:, None]
        c = self.config
        index = buckets(distance, c.relative_attention_num_buckets, c.relative_attention_max_distance)
        return self.relative_attention_bias(index).permute(2, 0, 1)[None]


class GatedGELU(nn.Module):
    """wo(gelu(wi_0 x) * wi_1 x)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """The feed-forward layer of each token by itself."""
        wide = self.dropout(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return self.wo(wide.to(self.wo.weight.dtype))


def buckets(distance: Int[Tensor, "l l"], count: int, largest: int) -> Int[Tensor, "l l"]:
    """The bucket of a distance, key position minus query position: half of ``count`` for either side.

    Each half is exact up to a quarter of ``count`` and logarithmic from there to ``largest``.
    """
    half, exact = count // 2, count // 4
    far = distance.abs()
    scale = (half - exact) / math.log(largest / exact)
    log = exact + (torch.log(far.clamp(min=1).float() / exact) * scale).long()
    return (distance > 0).long() * half + torch.where(far < exact, far, log.clamp(max=half - 1))


def _finite(x: Tensor) -> Tensor:
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), most - 1000, most)
    return x.clamp(-limit, limit)
