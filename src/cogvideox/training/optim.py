"""Optimisers (torch's) and the learning-rate curve."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from cogvideox.config import Config


class OptimConfig(Config):
    """Settings of the optimiser, of its learning rate and of the moving average of the weights."""

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices in blocks, adamw for the rest"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate of adamw")
    muon_lr: float = Field(0.02, gt=0, description="peak learning rate of the matrices under muon")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Table 6")
    eps: float = Field(1e-8, gt=0, description="Table 6")
    weight_decay: float = Field(1e-4, ge=0, description="Table 6")
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    floor: float = Field(0.02, ge=0, le=1, description="last learning rate, as a fraction of the peak")
    clip: float = Field(
        1.0, gt=0, description="gradient norm above which gradients are scaled down (Table 6)"
    )
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0 turns averaging off")


def build_optimizers(module: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all weights that get gradients; with ``name: muon``, Muon for the matrices inside blocks."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if config.name == "muon" and p.ndim == 2 and "block" in name]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    decayed = [p for p in rest if p.ndim > 1]
    plain = [p for p in rest if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:  # of an adapter muon takes all
        optimizers.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.lr,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                fused=True,  # one pass over the weights
            )
        )
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def learning_rate_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a cosine to ``floor`` at the last step (the paper's Table 6 names the cosine)."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's peak learning rate by ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
