"""Attention over a packed sequence: every token sees its own clip and nothing else.

The reference (``attention.attend_per_clip``) takes one clip after the other; on a CPU that is also fast, since no work
is done for pairs of tokens from two clips. A GPU wants one kernel for the whole sequence: FlashAttention with variable
lengths, or FlexAttention with a block mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.transformer.attention import Heads
from cogvideox.transformer.layout import Layout

PackedAttentionFn = Callable[[Heads, Heads, Heads, Layout], Heads]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def cumulative_lengths(layout: Layout, batch: int, device: torch.device) -> Int[Tensor, " clips_1"]:
    """Where each clip begins in ``batch`` equal sequences laid end to end, and where the last one ends; int32."""
    lengths = torch.tensor(layout.clip_lengths * batch)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device, torch.int32)


def flatten_batch(x: Heads) -> Tensor:
    """[b, k, n, e] -> [(b n), k, e], what kernels of variable length read."""
    return x.transpose(1, 2).flatten(0, 1)


def varlen(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """torch's FlashAttention over clips of different lengths; half precision on CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = cumulative_lengths(layout, len(q), q.device), max(layout.clip_lengths)
    flat_q, flat_k, flat_v = (flatten_batch(x) for x in (q, k, v))
    out = varlen_attn(flat_q, flat_k, flat_v, starts, starts, longest, longest)
    assert isinstance(out, Tensor)  # a tuple only where the log-sum-exp is asked for
    return out.unflatten(0, (len(q), -1)).transpose(1, 2)


def flash_3_varlen(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """FlashAttention-3 over clips of different lengths."""
    from flash_attn_interface import flash_attn_varlen_func

    starts, longest = cumulative_lengths(layout, len(q), q.device), max(layout.clip_lengths)
    out = flash_attn_varlen_func(*(flatten_batch(x) for x in (q, k, v)), starts, starts, longest, longest)
    out = out[0] if isinstance(out, tuple) else out
    return out.unflatten(0, (len(q), -1)).transpose(1, 2)


def flex(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """FlexAttention, compiled; blocks of tokens from different clips are left out."""
    return _compiled_flex()(q, k, v, block_mask=_block_mask(layout, q.device))


def flex_plain(q: Heads, k: Heads, v: Heads) -> Heads:
    """FlexAttention without a mask: one clip."""
    return _compiled_flex()(q, k, v)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _block_mask(layout: Layout, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    clip = layout.clip().to(device)

    def same_clip(b: Tensor, h: Tensor, one: Tensor, two: Tensor) -> Tensor:
        return clip[one] == clip[two]

    return create_block_mask(same_clip, None, None, layout.tokens, layout.tokens, device=device)
