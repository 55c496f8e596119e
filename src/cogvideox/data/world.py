"""Batches of the tiny world as tensors: rendered on the fly, a function of (seed, index) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.world import render, sample_scene


def world_pixels(
    seed: int, indices: Sequence[int], split: str, size: int, frames: int
) -> UInt8[Tensor, "b t h w 3"]:
    """Rendered clips, uint8 as people see them."""
    clips = [render(sample_scene(seed, int(index), split), size=size, frames=frames) for index in indices]
    return torch.from_numpy(np.stack(clips))


def to_model(pixels: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t h w"]:
    """Bytes to the [-1, 1] the VAE reads."""
    return pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
