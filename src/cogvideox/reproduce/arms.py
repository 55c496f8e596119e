"""What an arm trains: one miniature transformer for all, with the arm's single change.

Clips of 17 frames and 32x32 pixels are 5x4x4 latents of the shipped autoencoder: 80 tokens and 32 of text, in patches
of one latent. All arms and seeds see the same clips; a seed decides weights, order, noise and timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cogvideox.errors import ConfigError
from cogvideox.presets import get_preset
from cogvideox.reproduce.experiments import FULL, Arm
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import Run
from cogvideox.training.recipes.paper import variant_config
from cogvideox.training.recipes.shipped import EVERY_STORY
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.transformer import TransformerConfig, arms
from cogvideox.vae import VAE

MINIATURE = dict(
    num_attention_heads=3,
    attention_head_dim=32,
    num_layers=4,
    time_embed_dim=16,  # a sixth of the width, as in 5B
    patch_size=1,
    sample_height=4,
    sample_width=4,
    spatial_interpolation_scale=1.0,
)
SIDE, BATCH = 32, 8
TOLERANCE = 0.01  # of equal parameter counts


@dataclass(frozen=True)
class Scale:
    """How much of everything. ``clips`` are shared by all arms; ``videos`` are made by each arm for FVD and facts."""

    steps: int = 150
    seeds: int = 3
    clips: int = 512
    videos: int = 16
    out: Path = Path("runs/reproduce")

    def folder(self, arm: Arm, seed: int, kind: str = "") -> Path:
        """Where one arm's run is; runs of another length are other runs."""
        return self.out / f"{self.steps}-steps" / f"{kind}{arm.name}" / str(seed)


def transformer_of(arm: Arm) -> TransformerConfig:
    """The configuration of the arm's network: the miniature with the arm's one change."""
    config = get_preset("tiny").transformer.with_arm(**MINIATURE)
    if arm.change == "mmdit_of_equal_size":
        return mmdit_of_equal_size(config)
    if arm.change is not None:
        config = getattr(arms, arm.change)(config)
    return config.with_arm(**arm.transformer)


def mmdit_of_equal_size(config: TransformerConfig) -> TransformerConfig:
    """MMDiT1 of Fig. 8 to the last percent: whole layers first, the width of the time embedding for the rest."""
    budget, found = arms.parameter_count(config), arms.mmdit_of_same_size(config)
    one, two = (arms.parameter_count(found.with_arm(time_embed_dim=width)) for width in (16, 32))
    return found.with_arm(time_embed_dim=max(1, 16 + round(16 * (budget - one) / (two - one))))


def check_size(arm: Arm) -> int:
    """The arm's number of weights; ConfigError when they are not to the first arm's as the paper says."""
    count, first = (arms.parameter_count(transformer_of(one)) for one in (arm, FULL))
    ratio = count / first
    fits = {"equal": abs(ratio - 1) <= TOLERANCE, "fewer": ratio < 1, "more": ratio > 1}[arm.size]
    if not fits:
        raise ConfigError(
            f"arm {arm.name}: {count:,} weights where {FULL.name} has {first:,}; the paper compares {arm.size} numbers"
        )
    return count


def vae_size(arm: Arm) -> int:
    """Weights of an autoencoder of Table 1."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in VAE(variant_config(arm.name)).parameters())


def run_of(arm: Arm, seed: int, scale: Scale, start: Arm | None = None) -> Run:
    """The training of one arm. ``start``: the arm it goes on from, at twice the side, half the batch and steps."""
    steps = scale.steps if start is None else max(1, scale.steps // 2)
    settings = dict(
        transformer=transformer_of(arm),
        schedule=get_preset("tiny").schedule,
        vae="tiny",
        text="tiny",
        cache=str(scale.out / "latents"),
        clips=scale.clips,
        clips_seed=0,
        scene_mix=EVERY_STORY,
        object_weight=3.0,
        size=SIDE,
        batch=BATCH,
    )
    if start is not None:
        model = str(scale.folder(start, seed) / "model")
        settings |= dict(start=model, size=2 * SIDE, batch=BATCH // 2, clips=max(BATCH, scale.clips * 3 // 8))
    return Run(
        name=f"reproduce-{arm.name}",
        out=str(scale.folder(arm, seed)),
        task=DiffusionTraining(**(settings | dict(arm.task))),
        steps=steps,
        seed=seed,
        optim=OptimConfig(lr=2e-3 if start is None else 1e-3, warmup=max(1, steps // 10), ema=0.98),
        save_every=-(-steps // 3),
        log_every=max(1, steps // 75),
        measure_every=-(-steps // 3),
    )
