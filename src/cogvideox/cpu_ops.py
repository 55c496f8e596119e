"""Operations that torch computes slowly on a CPU, written so that they are fast.

A CPU without half-precision units takes 7 times longer for a half-precision matrix product than for a float32 one, and
hundreds of times longer for a convolution: there such products are computed in float32 and stored as before. And torch
unrolls small 3D convolutions into matrices of its own, where oneDNN takes a half to a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def via_float32(
    op: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **settings: Any
) -> Tensor:
    """``op(x, weight, bias, **settings)``, a matrix product or convolution, in float32 where that is faster.

    The result has the dtype of ``x``.
    """
    if x.dtype.itemsize == 2 and weight.dtype == x.dtype and computes_in_float32(x):
        wide = (t if t is None else t.float() for t in (x, weight, bias))
        return op(*wide, **settings).to(x.dtype)
    return op(x, weight, bias, **settings)


def computes_in_float32(x: Tensor) -> bool:
    """Whether a CPU computes products of ``x`` in float32: its own type, or half precision, which is slow there."""
    return x.is_cpu and (x.dtype == torch.float32 or (x.dtype.itemsize == 2 and not _is_native(x.dtype)))


def conv3d(
    x: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "d c kt kh kw"],
    bias: Float[Tensor, " d"] | None = None,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> Float[Tensor, "b d t2 h2 w2"]:
    """torch's 3D convolution; of float32 on a CPU always by oneDNN, however small.

    torch asks oneDNN only above 20,480 batch x channels x frames x rows (``use_mkldnn`` in its Convolution.cpp).
    """
    plain = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if x.is_cpu and plain and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


@contextmanager
def assume_native_half() -> Iterator[None]:
    """Inside, half precision counts as fast: for tensors without memory that stand for those of a GPU."""
    before = _assumed.set(True)
    try:
        yield
    finally:
        _assumed.reset(before)


_assumed = ContextVar("assume native half precision", default=False)


def _is_native(dtype: torch.dtype) -> bool:
    return _assumed.get() or half_is_native(dtype)


@cache
def half_is_native(dtype: torch.dtype) -> bool:
    """Whether this CPU has units for half precision of this kind."""
    if dtype == torch.bfloat16:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cpu._is_amx_fp16_supported())


class Linear(nn.Linear):
    """torch's linear layer, in float32 where half precision is slow (``via_float32``)."""

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """input · weightᵀ + bias."""
        return via_float32(F.linear, input, self.weight, self.bias)
