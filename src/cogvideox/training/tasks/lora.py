"""Training few weights of a transformer: low-rank adapters on a base that stays as it is, in one byte where wanted.

Adapters are those of ``checkpoints/lora.py``, written in diffusers' form, which diffusers loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from cogvideox.checkpoints.adapter import Adapter, Pair, read_adapter
from cogvideox.checkpoints.lora import TARGETS, add_lora, attach_lora, save_lora
from cogvideox.config import Config


class LoraTuning(Config):
    """An adapter on a frozen model."""

    rank: int = Field(64, gt=0, description="rank; the authors recommend 64 or more")
    alpha: float | None = Field(None, gt=0, description="scale is alpha / rank; null: alpha = rank")
    targets: tuple[str, ...] = Field(TARGETS, min_length=1, description="endings of the layers' names")
    start: str | None = Field(
        None, description="adapter to go on from; its layers and ranks are kept; null: a fresh one"
    )
    base: Literal["float32", "bfloat16", "int8", "fp8"] | None = Field(
        None,
        description="how the frozen weights are stored; int8 and fp8 need torchao; null: bfloat16 for a billion "
        "weights or more, else float32",
    )


def put_on(transformer: nn.Module, tuning: LoraTuning, seed: int) -> None:
    """Freeze ``transformer``, store it as asked, and add an adapter: a fresh one changes nothing yet.

    Raises DependencyError without torchao where it is needed, ConfigError when no layer matches ``targets``,
    CheckpointError when ``start`` cannot be read or is of another model.
    """
    begun = read_adapter(tuning.start, tuning.alpha) if tuning.start is not None else None
    if tuning.base == "bfloat16":
        transformer.to(torch.bfloat16)
    elif tuning.base in ("int8", "fp8"):
        from cogvideox.memory.lowbit import quantise
        from cogvideox.memory.offload import blocks_of

        for block in blocks_of(transformer):
            quantise(block, tuning.base)
    if begun is None:
        add_lora(transformer, tuning.rank, tuning.alpha, tuning.targets, seed=seed)
        return
    pairs = {path: Pair(pair.a.float(), pair.b.float(), pair.alpha) for path, pair in begun.pairs.items()}
    transformer.requires_grad_(False)
    attach_lora(transformer, Adapter(pairs))


def write_lora(transformer: nn.Module, folder: Path) -> Path:
    """``pytorch_lora_weights.safetensors`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return save_lora(transformer, folder, overwrite=True)
