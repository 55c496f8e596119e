"""The paper's progressive training: Tables 5 and 6 as they stand, and in miniature on the tiny world."""

from __future__ import annotations

from cogvideox.data.clips import ClipSize
from cogvideox.presets import get_preset
from cogvideox.training.optim import OptimConfig
from cogvideox.training.stages import DiffusionRun, StagedRun, TrainingStage
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData


def world_stages() -> StagedRun:
    """The paper's progressive recipe in miniature, on a folder of world clips with scores: task.data.folder."""
    preset = get_preset("tiny")
    task = DiffusionTraining(
        transformer=preset.transformer.with_arm(patch_size=2),
        schedule=preset.schedule,
        vae="tiny",
        text="tiny",
        data=FolderData(folder="runs/world-clips", held_out=0.1),
    )
    base = DiffusionRun(
        name="world-stages",
        out="runs/world-stages",
        task=task,
        optim=OptimConfig(name="muon", muon_lr=0.02, ema=0.99),
        precision=default_precision(),
        measure_every=100,
    )
    small, whole = (ClipSize(fps=8, frames=17, least_frames=9, short_side=side) for side in (32, 64))
    return StagedRun(
        base=base,
        stages=(
            TrainingStage(name="32", steps=600, size=small, lr=1.5e-3, budget=1000),
            TrainingStage(name="64", steps=600, size=whole, lr=1e-3, budget=2000),
            TrainingStage(name="best", steps=100, size=whole, lr=2e-4, budget=2000, best=0.2),
        ),
    )


def paper_2b() -> StagedRun:
    """Tables 5 and 6, 2B: four stages; a cluster's work."""
    return _paper("2b")


def paper_5b() -> StagedRun:
    """Tables 5 and 6, 5B: four stages; a cluster's work."""
    return _paper("5b")


def _paper(name: str) -> StagedRun:
    """Tables 5 and 6 for the 2B or 5B preset. Peak learning rates are ours: the paper prints none.

    Table 5 counts latents before they are patched: a quarter of its sequence length is the token budget here.
    """
    preset = get_preset(name)
    task = DiffusionTraining(
        preset=name,
        # section 2.2: position codes are extrapolated, not interpolated
        transformer=preset.transformer.with_arm(position_mode="slice"),
        schedule=preset.schedule,
        vae=name,
        text=name,
        data=FolderData(),
        recompute=True,
        device="cuda",
    )
    base = DiffusionRun(
        name=f"paper-{name}",
        out=f"runs/paper-{name}",
        task=task,
        optim=OptimConfig(lr=1e-4, floor=0.1, ema=0.9999),
        guard=GuardConfig(sigmas=6),
        precision="bf16",
        save_every=1000,
        background=True,
        measure_every=5000,
        sample_every=5000,
    )
    low = ClipSize(fps=8, frames=49, short_side=256, longest=1.5)
    middle = ClipSize(fps=8, frames=49, short_side=480, longest=1.5)
    high = ClipSize(fps=16, frames=161, short_side=768, longest=1.78)
    rows = (  # name, steps, size, peak learning rate, warm-up, microbatches of a step, sequence length, best share
        ("256", 400_000, low, 1e-4, 1000, 2000, 25_000, 1.0),
        ("480", 220_000, middle, 1e-4, 1000, 1000, 75_000, 1.0),
        ("768", 120_000, high, 5e-5, 1000, 250, 700_000, 1.0),
        ("best", 10_000, high, 1e-5, 500, 100, 700_000, 0.2),
    )
    stages = (
        TrainingStage(
            name=stage,
            steps=steps,
            size=size,
            lr=lr,
            warmup=warmup,
            accumulation=batch,
            budget=length // 4,
            best=best,
        )
        for stage, steps, size, lr, warmup, batch, length, best in rows
    )
    return StagedRun(base=base, stages=tuple(stages))
