"""Products in half precision where the processor has no units for it: computed in float32, stored as before.

A CPU without such units takes 7 times longer for a bfloat16 matrix product than for a float32 one, and hundreds of
times longer for a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def product(op: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **how: Any) -> Tensor:
    """``op(x, weight, bias, **how)``, a matrix product or convolution, through float32 where that is faster."""
    if x.is_cpu and x.dtype.itemsize == 2 and weight.dtype == x.dtype and not half_is_native(x.dtype):
        wide = (t if t is None else t.float() for t in (x, weight, bias))
        return op(*wide, **how).to(x.dtype)
    return op(x, weight, bias, **how)


@cache
def half_is_native(dtype: torch.dtype) -> bool:
    """Whether this CPU has units for half precision of this kind."""
    if dtype == torch.bfloat16:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cpu._is_amx_fp16_supported())


class Linear(nn.Linear):
    """torch's linear layer, through ``product``."""

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        return product(F.linear, input, self.weight, self.bias)
