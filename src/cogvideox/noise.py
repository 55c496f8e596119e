"""Seeded noise that depends on (seed, purpose, index), never on the device, the dtype or the number of ranks.

Generators of different devices give different streams, so every draw is made on the CPU and moved afterwards:
the same seed then starts from the same noise everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator whose stream is a function of the three arguments alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def normal(
    shape: Sequence[int], seed: int, purpose: str, index: int = 0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "..."]:
    """Standard normal noise, drawn in float32 on the CPU, then cast to ``dtype``."""
    return torch.randn(tuple(shape), generator=generator(seed, purpose, index)).to(dtype)
