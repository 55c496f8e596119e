"""Attention kernels: torch's own, FlashAttention and SageAttention where they are installed, and the reference of each.

Which of them a run uses is ``kernels``'s business; those of the hub are made by ``hub_kernels``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cogvideox.transformer.attention import Heads
from cogvideox.transformer.layout import Layout

PackedAttentionFn = Callable[[Heads, Heads, Heads, Layout], Heads]
EXACT, EIGHT_BIT = 2e-2, 0.2
"""Largest difference from torch's kernel, relative to the largest output, in half precision; float32: 1e-4."""


@dataclass(frozen=True)
class Kernel:
    """One way to compute softmax(q k / sqrt(e)) v on [b, k, n, e]."""

    name: str
    run: Callable[[Heads, Heads, Heads], Heads]
    usable: Callable[[Tensor], bool]
    approximate: bool = False
    packed: PackedAttentionFn | None = None
    """The same on a packed sequence as a whole, no clip seeing another; None: only clip by clip."""
    packed_only: bool = False
    """Whether it is worth timing on packed sequences alone; by its name it can be used for all."""


def torch_backend(backend: SDPBackend) -> Callable[[Heads, Heads, Heads], Heads]:
    """torch's attention with one of its own kernels."""

    def run(q: Heads, k: Heads, v: Heads) -> Heads:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return run


def in_float32(q: Heads, k: Heads, v: Heads) -> Heads:
    """torch's attention in float32: on a CPU, half precision is slower than the two casts, above all backwards."""
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def flash_3(q: Heads, k: Heads, v: Heads) -> Heads:
    """FlashAttention-3, for Hopper; it wants tokens before heads."""
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)))
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def sage(q: Heads, k: Heads, v: Heads) -> Heads:
    """SageAttention: scores computed in 8 bits, an approximation."""
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="HND", is_causal=False)


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


def _half_on(device: str) -> Callable[[Tensor], bool]:
    return lambda q: q.device.type == device and q.dtype in (torch.float16, torch.bfloat16)


def _installed(module: str) -> Callable[[Tensor], bool]:
    return lambda q: (
        _half_on("cuda")(q) and not q.requires_grad and importlib.util.find_spec(module) is not None
    )


KERNELS: tuple[Kernel, ...] = (
    Kernel("torch", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), lambda q: True),
    Kernel("torch-float32", in_float32, _half_on("cpu")),
    Kernel("torch-flash", torch_backend(SDPBackend.FLASH_ATTENTION), _half_on("cuda"), packed=varlen),
    Kernel("torch-cudnn", torch_backend(SDPBackend.CUDNN_ATTENTION), _half_on("cuda")),
    Kernel("flash-3", flash_3, _installed("flash_attn_interface"), packed=flash_3_varlen),
    # its compilation takes 5 to 8 s, and without a mask cuDNN is faster
    Kernel("flex", flex_plain, lambda q: q.device.type == "cuda", packed=flex, packed_only=True),
    Kernel("sage", sage, _installed("sageattention"), approximate=True),
)


def is_close(out: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether ``out`` is finite and within ``tolerance`` of the largest expected value; float32 within 1e-4."""
    if out.shape != expected.shape or not bool(out.isfinite().all()):
        return False
    if expected.dtype == torch.float32:
        tolerance = min(tolerance, 1e-4)
    return bool((out.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max())
