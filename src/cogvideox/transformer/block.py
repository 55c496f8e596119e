"""One layer of the expert transformer: modulate, attend; modulate, feed forward (section 2.2, Fig. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear
from cogvideox.recompute import in_place, recomputable, recomputed
from cogvideox.transformer.attention import Attention, AttentionKind
from cogvideox.transformer.layout import TEXT, VIDEO, Layout, Segment
from cogvideox.transformer.modality import Experts, normalise, shared_or_not, through

PerClip = Float[Tensor, "b clips modalities d"]
"""One vector for the tokens of each clip and modality; with one modality text and video share it."""


class ExpertNorm(nn.Module):
    """LayerNorm modulated by the timestep (adaLN); with ``experts`` each modality has a modulation of its own.

    The affine LayerNorm itself is shared, as released. ``linear`` gives video's shift, scale and gate, then text's.
    """

    def __init__(self, temb_dim: int, width: int, *, eps: float, affine: bool, experts: bool):
        super().__init__()
        self.modalities = 2 if experts else 1
        self.linear: nn.Module = Linear(temb_dim, 3 * self.modalities * width)
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=affine)

    def forward(
        self, x: Float[Tensor, "b n d"], temb: Float[Tensor, "b clips s"], layout: Layout
    ) -> tuple[Float[Tensor, "b n d"], PerClip]:
        """The normalised and modulated ``x``, and the gate for what is computed from it."""
        shift, scale, gate = self.vectors(temb)
        return modulate(normalise(self.norm, x, layout), shift, scale, layout), gate

    def vectors(self, temb: Float[Tensor, "b clips s"]) -> tuple[PerClip, PerClip, PerClip]:
        """Shift, scale and gate of each clip and modality."""
        return self.linear(temb).unflatten(-1, (self.modalities, 3, -1)).unbind(-2)


@recomputable
def modulate(
    x: Float[Tensor, "b n d"], shift: PerClip, scale: PerClip, layout: Layout
) -> Float[Tensor, "b n d"]:
    """shift + x · (1 + scale), with those of each token's clip and modality. Without gradients written over ``x``."""
    scale = 1 + scale
    if torch.compiler.is_compiling() and layout.is_plain:
        return torch.addcmul(_per_token(shift, layout), x, _per_token(scale, layout))
    over = in_place() and shift.dtype == x.dtype == scale.dtype  # else: promote, as usual
    segments = zip(layout.segments, x.split(layout.lengths, dim=1), strict=True)
    chunks = [torch.addcmul(_at(shift, s), c, _at(scale, s), out=c if over else None) for s, c in segments]
    return x if over else torch.cat(chunks, dim=1)


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: PerClip, layout: Layout
) -> Float[Tensor, "b n d"]:
    """x + gate · update, with the gate of each token's clip and modality.

    Without gradients it is written over ``x``: the residual stream is one memory from the first layer to the last.
    """
    if torch.compiler.is_compiling() and layout.is_plain:
        return torch.addcmul(x, update, _per_token(gate, layout))
    over = in_place() and x.dtype == update.dtype == gate.dtype
    segments = zip(
        layout.segments, x.split(layout.lengths, dim=1), update.split(layout.lengths, dim=1), strict=True
    )
    chunks = [torch.addcmul(c, u, _at(gate, s), out=c if over else None) for s, c, u in segments]
    return x if over else torch.cat(chunks, dim=1)


def _at(table: PerClip, segment: Segment) -> Float[Tensor, "b 1 d"]:
    return table[:, segment.clip : segment.clip + 1, segment.modality % table.shape[2]]


def _per_token(table: PerClip, layout: Layout) -> Float[Tensor, "b n d"]:
    """The vector of every token of one clip: compilers make one pass of it, where pieces put together are two."""
    is_text = torch.arange(layout.tokens, device=table.device)[:, None] < layout.clips[0].text_len
    return torch.where(is_text, table[:, 0, TEXT % table.shape[2], None], table[:, 0, VIDEO, None])


@recomputable
def gelu(x: Float[Tensor, "... d"], approximate: str) -> Float[Tensor, "... d"]:
    """GELU; without gradients written over ``x``."""
    function = torch.ops.aten.gelu_ if in_place() else F.gelu
    return function(x, approximate=approximate)


def linear_then_gelu(
    linear: nn.Module, x: Float[Tensor, "... d"], approximate: str
) -> Float[Tensor, "... d4"]:
    """GELU of a linear layer."""
    return gelu(linear(x), approximate)


class FeedForwardIn(nn.Module):
    """Linear to four times the width; ``proj`` is the released name."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = Linear(width, 4 * width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d4"]:
        """Every token at four times the width."""
        return self.proj(x)


class FeedForward(nn.Module):
    """Two linear layers with GELU between, token by token; four times the width inside."""

    linear_gelu = staticmethod(linear_then_gelu)  # the seam for one kernel that does both

    def __init__(self, width: int, *, approximate: str = "tanh", dropout: float = 0.0):
        super().__init__()
        drop = nn.Dropout(dropout)
        self.approximate = approximate
        self.net = nn.ModuleList([FeedForwardIn(width), drop, Linear(4 * width, width), drop])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the layer adds to the residual stream ``x``, before its gate."""
        linear_in, dropout, linear_out, _ = self.net
        hidden = self.linear_gelu(linear_in, x, self.approximate)
        return dropout(linear_out(dropout(hidden)))


class Block(nn.Module):
    """One layer; text and video share all weights except those that ``experts`` gives each its own."""

    def __init__(
        self,
        width: int,
        heads: int,
        temb_dim: int,
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
            return ExpertNorm(temb_dim, width, eps=norm_eps, affine=norm_affine, experts=experts.norm)

        self.norm1 = norm()
        self.attn1 = Attention(
            width, heads, bias=attention_bias, dropout=dropout, kind=attention, separate=experts.weights
        )
        self.norm2 = norm()
        self.ff = shared_or_not(
            experts.weights, lambda: FeedForward(width, approximate=approximate, dropout=dropout)
        )

    @recomputed
    def forward(
        self,
        x: Float[Tensor, "b n d"],
        temb: Float[Tensor, "b clips s"],
        rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
        layout: Layout,
    ) -> Float[Tensor, "b n d"]:
        """``temb``: SiLU of the time embedding of each clip; ``rotary_emb``: the table of ``Rotary``, or None."""
        y, gate = self.norm1(x, temb, layout)
        x = add_gated(x, self.attn1(y, rotary_emb, layout), gate, layout)
        y, gate = self.norm2(x, temb, layout)
        return add_gated(x, through(self.ff, y, layout), gate, layout)
