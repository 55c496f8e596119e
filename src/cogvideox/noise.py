"""Seeded noise that depends on (seed, purpose, index), never on the device, the dtype or the number of ranks.

Generators of different devices give different streams, so every draw is made on the CPU and moved afterwards:
the same seed then starts from the same noise everywhere.
"""

from __future__ import annotations

import hashlib
import math
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


def skip_normal(shape: Sequence[int], source: torch.Generator, dtype: torch.dtype = torch.float32) -> None:
    """Leave ``source`` where drawing standard normal noise of this shape would leave it.

    On the CPU a normal draw of 16 n float32 values takes one number of the generator for each; these can be taken as
    bytes, without the logarithms, roots and cosines. Any other draw is made and dropped.
    """
    count = math.prod(shape)
    if source.device.type == "cpu" and dtype == torch.float32 and count >= 16 and count % 16 == 0:
        torch.empty(count, dtype=torch.uint8).random_(generator=source)
    else:
        torch.randn(tuple(shape), generator=source, device=source.device, dtype=dtype)
