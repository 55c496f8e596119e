"""One layer of the expert transformer: modulate, attend; modulate, feed forward (section 2.2, Fig. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.transformer.attention import Attention, AttentionKind
from cogvideox.transformer.layout import Layout
from cogvideox.transformer.modality import Experts, shared_or_not, through

Table = Float[Tensor, "b clips modalities 3 d"]


class Modulated(NamedTuple):
    """A normalised and modulated input, and the table whose last row gates what comes of it."""

    x: Float[Tensor, "b n d"]
    table: Table


class ExpertNorm(nn.Module):
    """LayerNorm with shift, scale and gate from the timestep; with ``experts``, for each modality by itself.

    The affine LayerNorm itself is shared, as released. Chunks of ``linear``: video's three, then text's.
    """

    def __init__(self, signal_width: int, width: int, *, eps: float, affine: bool, experts: bool):
        super().__init__()
        self.modalities = 2 if experts else 1
        self.linear = nn.Linear(signal_width, 3 * self.modalities * width)
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=affine)

    def forward(
        self, x: Float[Tensor, "b n d"], signal: Float[Tensor, "b clips s"], layout: Layout
    ) -> Modulated:
        table = self.linear(signal).unflatten(-1, (self.modalities, 3, -1))
        parts = self.norm(x).split(layout.lengths, dim=1)
        rows = [_row(table, segment.clip, segment.modality) for segment in layout.segments]
        pairs = zip(parts, rows, strict=True)
        moved = [torch.addcmul(row[:, 0:1], part, 1 + row[:, 1:2]) for part, row in pairs]
        return Modulated(torch.cat(moved, dim=1), table)


def gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], table: Table, layout: Layout
) -> Float[Tensor, "b n d"]:
    """x + gate · update, with the gate of each token's clip and modality."""
    pieces = zip(layout.segments, x.split(layout.lengths, 1), update.split(layout.lengths, 1), strict=True)
    return torch.cat([torch.addcmul(a, _row(table, s.clip, s.modality)[:, 2:3], b) for s, a, b in pieces], 1)


def _row(table: Table, clip: int, modality: int) -> Float[Tensor, "b 3 d"]:
    return table[:, clip, modality % table.shape[2]]


class Widen(nn.Module):
    """Linear to four times the width, then GELU; ``proj`` is the released name."""

    def __init__(self, width: int, approximate: str):
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU(approximate=approximate)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d4"]:
        return self.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Token by token: widen, GELU, narrow."""

    def __init__(self, width: int, *, approximate: str = "tanh", dropout: float = 0.0):
        super().__init__()
        drop = nn.Dropout(dropout)
        self.net = nn.ModuleList([Widen(width, approximate), drop, nn.Linear(4 * width, width), drop])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """One layer; text and video share all weights except those that ``experts`` gives each its own."""

    def __init__(
        self,
        width: int,
        heads: int,
        signal_width: int,
        *,
        experts: Experts,
        attention: AttentionKind = "full",
        attention_bias: bool = True,
        norm_eps: float = 1e-5,
        norm_affine: bool = True,
        approximate: str = "tanh",
        dropout: float = 0.0,
    ):
        super().__init__()

        def norm() -> ExpertNorm:
            return ExpertNorm(signal_width, width, eps=norm_eps, affine=norm_affine, experts=experts.norm)

        self.norm1 = norm()
        self.attn1 = Attention(
            width, heads, bias=attention_bias, dropout=dropout, kind=attention, separate=experts.weights
        )
        self.norm2 = norm()
        self.ff = shared_or_not(
            experts.weights, lambda: FeedForward(width, approximate=approximate, dropout=dropout)
        )

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        signal: Float[Tensor, "b clips s"],
        turn: Complex[Tensor, "n 1 e_half"] | None,
        layout: Layout,
    ) -> Float[Tensor, "b n d"]:
        """``signal`` is SiLU(time embedding) of each clip; ``turn`` the rotary table or None."""
        inner, table = self.norm1(x, signal, layout)
        x = gated(x, self.attn1(inner, turn, layout), table, layout)
        inner, table = self.norm2(x, signal, layout)
        return gated(x, through(self.ff, inner, layout), table, layout)
