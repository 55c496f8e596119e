"""One layer of the expert transformer: modulate, attend; modulate, feed forward (section 2.2, Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear
from cogvideox.recompute import Again, made, remade
from cogvideox.transformer.attention import Attention, AttentionKind
from cogvideox.transformer.layout import Layout
from cogvideox.transformer.modality import Experts, shared_or_not, through
from cogvideox.transformer.position import in_place

Table = Float[Tensor, "b clips modalities 3 d"]


class Modulated(NamedTuple):
    """A normalised and modulated input, the table whose last row gates what comes of it, and how to remake it."""

    x: Float[Tensor, "b n d"]
    table: Table
    again: Again


class ExpertNorm(nn.Module):
    """LayerNorm with shift, scale and gate from the timestep; with ``experts``, for each modality by itself.

    The affine LayerNorm itself is shared, as released. Chunks of ``linear``: video's three, then text's.
    """

    def __init__(self, signal_width: int, width: int, *, eps: float, affine: bool, experts: bool):
        super().__init__()
        self.modalities = 2 if experts else 1
        self.linear = Linear(signal_width, 3 * self.modalities * width)
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=affine)

    def forward(
        self, x: Float[Tensor, "b n d"], signal: Float[Tensor, "b clips s"], layout: Layout
    ) -> Modulated:
        table = self.linear(signal).unflatten(-1, (self.modalities, 3, -1))
        modulated, again = made(partial(_modulated, layout=layout), self.norm, x, table)
        return Modulated(modulated, table, again)


def _modulated(
    norm: Callable[[Tensor], Tensor], x: Float[Tensor, "b n d"], table: Table, layout: Layout
) -> Float[Tensor, "b n d"]:
    shift, scale, _ = table.unbind(-2)
    normed, again = made(_applied, norm, x)
    with remade(normed, again):
        return affine(shift, normed, 1 + scale, layout)


def _applied(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return norm(x)


def gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], table: Table, layout: Layout
) -> Float[Tensor, "b n d"]:
    """x + gate · update, with the gate of each token's clip and modality; without gradients written over ``x``."""
    return affine(x, update, table[..., 2, :], layout)


Rows = Float[Tensor, "b clips modalities d"]


def affine(
    base: Rows | Float[Tensor, "b n d"], x: Float[Tensor, "b n d"], scale: Rows, layout: Layout
) -> Float[Tensor, "b n d"]:
    """base + x · scale, where rows of ``scale`` (and of ``base``) hold for the tokens of a clip and modality.

    Range by range over one joint sequence. Without gradients the result is written over ``base`` where that has a row
    for every token (the residual stream is one memory then, from the first layer to the last), else over ``x``.
    """
    over = in_place() and base.dtype == x.dtype == scale.dtype  # else: promote, as usual
    parts = x.split(layout.lengths, dim=1)
    bases = [None] * len(parts) if base.ndim == 4 else base.split(layout.lengths, dim=1)
    written = []
    for segment, part, rest in zip(layout.segments, parts, bases, strict=True):
        row = (slice(None), slice(segment.clip, segment.clip + 1), segment.modality % scale.shape[2])
        out = None if not over else part if rest is None else rest
        written.append(torch.addcmul(base[row] if rest is None else rest, part, scale[row], out=out))
    if not over:
        return torch.cat(written, dim=1)
    return x if base.ndim == 4 else base


class FeedForwardIn(nn.Module):
    """Linear to four times the width; ``proj`` is the released name."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = Linear(width, 4 * width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d4"]:
        return self.proj(x)


class FeedForward(nn.Module):
    """Token by token: widen, GELU, narrow."""

    def __init__(self, width: int, *, approximate: str = "tanh", dropout: float = 0.0):
        super().__init__()
        drop = nn.Dropout(dropout)
        self.approximate = approximate
        self.net = nn.ModuleList([FeedForwardIn(width), drop, Linear(4 * width, width), drop])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        widen, drop, narrow, _ = self.net
        gelu = torch.ops.aten.gelu_ if in_place() else F.gelu
        hidden, again = made(partial(gelu, approximate=self.approximate), widen(x))
        with remade(hidden, again):
            return drop(narrow(drop(hidden)))


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
        inner, table, again = self.norm1(x, signal, layout)
        with remade(inner, again):
            update = self.attn1(inner, turn, layout)
        x = gated(x, update, table, layout)
        inner, table, again = self.norm2(x, signal, layout)
        with remade(inner, again):
            update = through(self.ff, inner, layout)
        return gated(x, update, table, layout)
