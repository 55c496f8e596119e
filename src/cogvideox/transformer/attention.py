"""Self-attention over the joint sequence: 3D full, or split into 2D (a frame) and 1D (a patch over time).

An attention function (``AttentionFn``) is called with q, k, v of one clip; ``attend`` gives it one clip at a time, so
that clips packed in one sequence never see each other and no mask is built. A function with a method ``packed`` has a
kernel for the whole packed sequence. Replacing ``Attention.attn_fn`` is the seam for kernels and sequence parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear
from cogvideox.transformer.layout import ClipTokens, Layout
from cogvideox.transformer.modality import normalise, shared_or_not, through
from cogvideox.transformer.position import apply_rotary_emb

Heads = Float[Tensor, "b k n e"]
AttentionFn = Callable[[Heads, Heads, Heads, ClipTokens], Heads]
AttentionKind = Literal["full", "split"]
QK_NORM_EPS = 1e-6


def full_attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
    """3D full attention (paper section 2.2): all text and video tokens of the clip see each other."""
    return F.scaled_dot_product_attention(q, k, v)


def split_attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
    """2D + 1D attention: a video token sees the text and its own frame, then its own patch in all frames.

    Both steps use the same q and k, so the model has exactly the weights of full attention and a comparison is
    fair (Fig. 8b, 10b). Text sees everything. A clip of one latent frame gets full attention exactly.
    """
    text_len, (t, h, w) = clip
    grid = (t, h * w)
    text_q, video_q = q[:, :, :text_len], q[:, :, text_len:].unflatten(2, grid)  # b k t (h w) e
    text_k, video_k = k[:, :, :text_len], k[:, :, text_len:].unflatten(2, grid)
    text_v, video_v = v[:, :, :text_len], v[:, :, text_len:].unflatten(2, grid)

    def with_text(text: Heads, video: Float[Tensor, "b k t n e"]) -> Float[Tensor, "b t k m e"]:
        each_frame = text[:, :, None].expand(-1, -1, t, -1, -1)
        return torch.cat([each_frame, video], 3).transpose(1, 2)

    frame = within_groups(
        video_q.transpose(1, 2), with_text(text_k, video_k), with_text(text_v, video_v)
    )  # b t k (h w) e
    over_time = within_groups(
        video_q.transpose(2, 3), video_k.transpose(2, 3), frame.permute(0, 2, 3, 1, 4)
    )  # b k (h w) t e
    video = over_time.transpose(2, 3).flatten(2, 3)
    return torch.cat([F.scaled_dot_product_attention(text_q, k, v), video], 2)


def within_groups(
    q: Float[Tensor, "b g k n e"], k: Float[Tensor, "b g k m e"], v: Float[Tensor, "b g k m e"]
) -> Float[Tensor, "b g k n e"]:
    """Attention whose batch has two dimensions, given to torch as one, since no fused kernel takes five in all.

    A CPU keeps torch's plain kernel, and with it the bits of earlier runs.
    """
    if q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v)
    out = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return out.unflatten(0, q.shape[:2])


ATTENTION: dict[AttentionKind, AttentionFn] = {"full": full_attention, "split": split_attention}


def attend(attn_fn: AttentionFn, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """``attn_fn`` on each clip of the sequence, or its ``packed`` on the whole sequence where it has one."""
    if layout.is_plain:
        return attn_fn(q, k, v, layout.clips[0])
    packed = getattr(attn_fn, "packed", None)
    return packed(q, k, v, layout) if packed is not None else attend_per_clip(attn_fn, q, k, v, layout)


def attend_per_clip(attn_fn: AttentionFn, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """``attn_fn`` on one clip after the other: the reference of every kernel for packed sequences."""
    clips = zip(*(x.split(layout.clip_lengths, dim=2) for x in (q, k, v)), layout.clips, strict=True)
    return torch.cat([attn_fn(*clip) for clip in clips], dim=2)


def norm_then_rotate(
    norm: nn.Module,
    x: Float[Tensor, "b n k e"],
    rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
    layout: Layout,
) -> Float[Tensor, "b n k e"]:
    """q or k through its LayerNorm, then rotated by the positions."""
    dtype, x = x.dtype, normalise(norm, x, layout)  # its input is nobody's any more
    return apply_rotary_emb(x, rotary_emb, dtype)


class Attention(nn.Module):
    """Multi-head self-attention over text and video; q and k are normalised, then rotated by their positions."""

    norm_rotate = staticmethod(norm_then_rotate)  # the seam for one kernel that does both

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
        self.heads = heads
        self.attn_fn = ATTENTION[kind]
        self.norm_q = shared_or_not(separate, lambda: nn.LayerNorm(width // heads, eps=QK_NORM_EPS))
        self.norm_k = shared_or_not(separate, lambda: nn.LayerNorm(width // heads, eps=QK_NORM_EPS))
        self.to_q = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_k = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_v = shared_or_not(separate, lambda: Linear(width, width, bias=bias))
        self.to_out = nn.ModuleList(
            [shared_or_not(separate, lambda: Linear(width, width)), nn.Dropout(dropout)]
        )

    def forward(
        self, x: Float[Tensor, "b n d"], rotary_emb: Complex[Tensor, "n 1 e_half"] | None, layout: Layout
    ) -> Float[Tensor, "b n d"]:
        """``rotary_emb``: the factors of ``Rotary.table``; None for a model without rotary positions."""
        v = self._heads(self.to_v, x, layout)
        q = self.norm_rotate(self.norm_q, self._heads(self.to_q, x, layout), rotary_emb, layout)
        k = self.norm_rotate(self.norm_k, self._heads(self.to_k, x, layout), rotary_emb, layout)
        out = attend(self.attn_fn, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), layout)
        to_out, dropout = self.to_out
        return dropout(through(to_out, out.transpose(1, 2).flatten(2), layout))

    def _heads(
        self, project: nn.Module, x: Float[Tensor, "b n d"], layout: Layout
    ) -> Float[Tensor, "b n k e"]:
        return through(project, x, layout).unflatten(-1, (self.heads, -1))
