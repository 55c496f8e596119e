"""Weights and inputs from an integer hash, so that golden numbers need no files.

The numbers they are compared with were made by diffusers 0.42.1 (float32, CPU) from the same values.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def fill(key: str, shape: int | Sequence[int]) -> Tensor:
    """Values in [-1, 1) that depend on the key and the flat index alone; float32."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    mask = np.uint64(0xFFFFFFFF)
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    u = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))) & mask
    for _ in range(2):
        u ^= u >> np.uint64(16)
        u = (u * np.uint64(73244475)) & mask
    u ^= u >> np.uint64(16)
    values = 2 * u.astype(np.float64) / 2**32 - 1
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def param(key: str, shape: int | Sequence[int]) -> Tensor:
    """Weights for a state-dict key: scaled by fan-in, norm weights near 1, other vectors near 0."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    values = fill(key, shape).double()
    if len(shape) >= 2:
        values = values * math.sqrt(3 / math.prod(shape[1:]))
    elif key.endswith(".weight"):
        values = 1 + 0.2 * values
    else:
        values = 0.1 * values
    return values.float()


def fill_model(model: nn.Module) -> nn.Module:
    """Give every tensor of the state dict its golden value."""
    model.load_state_dict({key: param(key, value.shape) for key, value in model.state_dict().items()})
    return model.eval()


def summary(x: Tensor) -> list[float]:
    """mean, mean of |x|, then flat elements 0, 1, n//3, n//2, 2n//3, n-1: one row of the golden tables."""
    flat = x.detach().double().flatten()
    n = flat.numel()
    places = [0, 1, n // 3, n // 2, 2 * n // 3, n - 1]
    return [flat.mean().item(), flat.abs().mean().item(), *(flat[i].item() for i in places)]
