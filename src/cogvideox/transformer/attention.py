"""Who sees whom: every token of my clip (full), or my frame and then my place (split, "2D + 1D").

An arm is called with q, k, v of one clip; ``attend`` hands it one clip at a time, so that clips packed in one
row never see each other and no mask is built; an arm may know a kernel for the whole row. Replacing
``Attention.arm`` is the seam for sequence parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear
from cogvideox.recompute import made, remade
from cogvideox.transformer.layout import ClipTokens, Layout
from cogvideox.transformer.modality import shared_or_not, through
from cogvideox.transformer.position import turned

Heads = Float[Tensor, "b k n e"]
Arm = Callable[[Heads, Heads, Heads, ClipTokens], Heads]
AttentionKind = Literal["full", "split"]
QK_NORM_EPS = 1e-6


def full_attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
    """3D full attention (paper section 2.2): all text and video tokens of the clip see each other."""
    return F.scaled_dot_product_attention(q, k, v)


def split_attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
    """2D + 1D attention: a video token sees the text and its own frame, then its own place in all frames.

    Both steps use the same q and k, so the arm has exactly the weights of full attention and a comparison is
    fair. Text sees everything. A clip of one latent frame gets full attention exactly.
    """
    words, (t, h, w) = clip
    place = (t, h * w)
    text_q, video_q = q[:, :, :words], q[:, :, words:].unflatten(2, place)  # b k t (h w) e
    text_k, video_k = k[:, :, :words], k[:, :, words:].unflatten(2, place)
    text_v, video_v = v[:, :, :words], v[:, :, words:].unflatten(2, place)

    def with_text(text: Heads, video: Float[Tensor, "b k t n e"]) -> Float[Tensor, "b t k m e"]:
        each_frame = text[:, :, None].expand(-1, -1, t, -1, -1)
        return torch.cat([each_frame, video], 3).transpose(1, 2)

    frame = F.scaled_dot_product_attention(
        video_q.transpose(1, 2), with_text(text_k, video_k), with_text(text_v, video_v)
    )
    over_time = F.scaled_dot_product_attention(
        video_q.transpose(2, 3), video_k.transpose(2, 3), frame.permute(0, 2, 3, 1, 4)
    )  # b k (h w) t e
    video = over_time.transpose(2, 3).flatten(2, 3)
    return torch.cat([F.scaled_dot_product_attention(text_q, k, v), video], 2)


ARMS: dict[str, Arm] = {"full": full_attention, "split": split_attention}


def attend(arm: Arm, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """``arm`` on each clip of the row; one that has a kernel for a whole packed row (its ``row``) is given that."""
    if layout.is_plain:
        return arm(q, k, v, layout.clips[0])
    row = getattr(arm, "row", None)
    return row(q, k, v, layout) if row is not None else clip_by_clip(arm, q, k, v, layout)


def clip_by_clip(arm: Arm, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """``arm`` on one clip after the other: the reference of every kernel for packed rows."""
    pieces = zip(*(x.split(layout.clip_lengths, dim=2) for x in (q, k, v)), layout.clips, strict=True)
    return torch.cat([arm(*piece) for piece in pieces], dim=2)


class Attention(nn.Module):
    """Multi-head self-attention over the joint sequence; q and k are normalised, then turned."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        kind: AttentionKind = "full",
        separate: bool = False,
    ):
        super().__init__()
        self.heads, self.separate = heads, separate
        self.arm = ARMS[kind]
        self.norm_q = shared_or_not(separate, lambda: nn.LayerNorm(width // heads, eps=QK_NORM_EPS))
        self.norm_k = shared_or_not(separate, lambda: nn.LayerNorm(width // heads, eps=QK_NORM_EPS))
        self.to_q = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_k = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_v = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_out = nn.ModuleList(
            [shared_or_not(separate, lambda: Linear(width, width)), nn.Dropout(dropout)]
        )

    def forward(
        self, x: Float[Tensor, "b n d"], turn: Complex[Tensor, "n 1 e_half"] | None, layout: Layout
    ) -> Float[Tensor, "b n d"]:
        v = self._heads(self.to_v, x, layout)
        place = partial(_placed, turn=turn, layout=layout, dtype=v.dtype, separate=self.separate)
        q, q_again = made(place, self.norm_q, self._heads(self.to_q, x, layout))
        k, k_again = made(place, self.norm_k, self._heads(self.to_k, x, layout))
        with remade(q, q_again), remade(k, k_again):
            seen = attend(self.arm, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), layout)
            return self.to_out[1](through(self.to_out[0], seen.transpose(1, 2).flatten(2), layout))

    def _heads(self, project: nn.Module, x: Float[Tensor, "b n d"], layout: Layout) -> Tensor:
        return through(project, x, layout).unflatten(-1, (self.heads, -1))  # b n k e


def _placed(
    norm: Callable[..., Tensor],
    part: Tensor,
    turn: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
    separate: bool,
) -> Tensor:
    """q or k normalised and turned; each step lets go of the one before."""
    part = norm(part, layout) if separate else norm(part)
    return (part if turn is None else turned(part, turn)).to(dtype)
