"""Weights stored in one byte: torchao's weight-only int8 and fp8, applied to a finished model.

int8 is symmetric with one scale per output channel; fp8 (e4m3) likewise, on cards of compute capability 8.9 and
later. Activations keep their precision: weights are widened as they are read. The linear layers in the blocks of
the transformer and of the text encoder change; embeddings, head, norms and the autoencoder stay as they are.
"""

from __future__ import annotations

import torch
from torch import nn

from cogvideox.errors import ConfigError, DependencyError
from cogvideox.memory.offload import blocks_of
from cogvideox.memory.weights import Storage
from cogvideox.model import CogVideoX

FP8_CARD = (8, 9)


def lower(model: CogVideoX, storage: Storage, device: torch.device | str = "cpu") -> CogVideoX:
    """Store the large linear layers of ``model`` in one byte per weight, in place; ``stored`` changes nothing.

    Raises DependencyError without torchao, ConfigError for fp8 on a device that cannot compute with it.
    """
    if storage == "stored":
        return model
    device = torch.device(device)
    if storage == "fp8" and not can_fp8(device):
        raise ConfigError(
            f"fp8 weights on {device}: needs an NVIDIA card of capability 8.9 or later; use int8"
        )
    parts: list[nn.Module] = [model.transformer]
    if model.text is not None:
        parts.append(model.text.model)
    for part in parts:
        for block in blocks_of(part):
            quantise(block, storage)
    return model


def quantise(part: nn.Module, storage: Storage) -> None:
    """Replace the weights of every linear layer of ``part``. Raises DependencyError without torchao."""
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise DependencyError(
            f"{storage} weights: torchao is not installed; pip install 'cogvideox[lowp]', or leave them as stored"
        ) from None
    quantize_(part, Int8WeightOnlyConfig() if storage == "int8" else Float8WeightOnlyConfig())


def has_torchao() -> bool:
    """Whether weights can be stored in fewer bits here."""
    from importlib.util import find_spec

    return find_spec("torchao") is not None


def can_fp8(device: torch.device) -> bool:
    """Whether the device multiplies 8-bit floating-point numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CARD
