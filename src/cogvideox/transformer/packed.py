"""Attention over a packed row: every token sees its own clip and nothing else.

The reference runs an arm on one clip after the other; on a CPU that is also fast, since no work is done for pairs of
tokens from two clips. A GPU wants one kernel for the whole row: FlashAttention with variable lengths, or FlexAttention
with a mask of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.transformer.attention import Heads
from cogvideox.transformer.layout import Layout

PackedArm = Callable[[Heads, Heads, Heads, Layout], Heads]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def boundaries(layout: Layout, rows: int, device: torch.device) -> Int[Tensor, " clips_1"]:
    """Where each clip begins in ``rows`` equal rows laid end to end, and where the last one ends; int32."""
    lengths = torch.tensor(layout.clip_lengths * rows)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device, torch.int32)


def end_to_end(x: Heads) -> Tensor:
    """[b, k, n, e] -> [(b n), k, e], what kernels of variable length read."""
    return x.transpose(1, 2).flatten(0, 1)


def varlen(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """torch's FlashAttention over clips of different lengths; half precision on CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = boundaries(layout, len(q), q.device), max(layout.clip_lengths)
    flat_q, flat_k, flat_v = (end_to_end(x) for x in (q, k, v))
    out = varlen_attn(flat_q, flat_k, flat_v, starts, starts, longest, longest)
    return out.unflatten(0, (len(q), -1)).transpose(1, 2)


def flash_3_varlen(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """FlashAttention-3 over clips of different lengths."""
    from flash_attn_interface import flash_attn_varlen_func

    starts, longest = boundaries(layout, len(q), q.device), max(layout.clip_lengths)
    out = flash_attn_varlen_func(*(end_to_end(x) for x in (q, k, v)), starts, starts, longest, longest)
    out = out[0] if isinstance(out, tuple) else out
    return out.unflatten(0, (len(q), -1)).transpose(1, 2)


def flex(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """FlexAttention, compiled, with blocks of two clips left out."""
    return _compiled_flex()(q, k, v, block_mask=_blocks(layout, q.device))


def flex_plain(q: Heads, k: Heads, v: Heads) -> Heads:
    """FlexAttention without a mask: one clip."""
    return _compiled_flex()(q, k, v)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _blocks(layout: Layout, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    clip = layout.clip().to(device)

    def same_clip(b, h, one, two):
        return clip[one] == clip[two]

    return create_block_mask(same_clip, None, None, layout.tokens, layout.tokens, device=device)
