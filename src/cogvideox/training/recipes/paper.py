"""The paper's runs: progressive training (Tables 5 and 6), whole and in miniature; autoencoders (Table 1), scaled down.

``b-lpips`` and ``b-gan`` are autoencoder B with the paper's other losses, for GAN on and off.
"""

from __future__ import annotations

from typing import NamedTuple

from cogvideox.data.clips import ClipSize
from cogvideox.presets import get_preset
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes.shipped import EVERY_STORY
from cogvideox.training.stages import DiffusionRun, StagedRun, TrainingStage
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.vae import CropPhase, Gan, VAETraining
from cogvideox.vae import VAEConfig
from cogvideox.vae.losses import CriticConfig

LOW = ClipSize(fps=8, frames=49, short_side=256, longest=1.5)
MIDDLE = ClipSize(fps=8, frames=49, short_side=480, longest=1.5)
HIGH = ClipSize(fps=16, frames=161, short_side=768, longest=1.78)
PAPER_STAGES = (
    TrainingStage(name="256", steps=400_000, size=LOW, lr=1e-4, warmup=1000, accumulation=2000, budget=6_250),
    TrainingStage(
        name="480", steps=220_000, size=MIDDLE, lr=1e-4, warmup=1000, accumulation=1000, budget=18_750
    ),
    TrainingStage(
        name="768", steps=120_000, size=HIGH, lr=5e-5, warmup=1000, accumulation=250, budget=175_000
    ),
    TrainingStage(
        name="best", steps=10_000, size=HIGH, lr=1e-5, warmup=500, accumulation=100, budget=175_000, best=0.2
    ),
)
"""Table 5. It counts latents before they are patched: the budget is a quarter of its sequence length. Peak learning
rates are ours: the paper prints none."""


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
    """Tables 5 and 6 for the 2B or 5B preset."""
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
    return StagedRun(base=base, stages=PAPER_STAGES)


class Variant(NamedTuple):
    """A column of Table 1: compression of each side and of time, latent channels; flickering and PSNR as printed."""

    space: int
    time: int
    channels: int
    flickering: float | None = None
    psnr: float | None = None


TABLE_1 = {
    "base": Variant(8, 1, 4, 93.2, 28.4),
    "a": Variant(8, 4, 8, 87.6, 27.2),
    "b": Variant(8, 4, 16, 86.3, 28.7),
    "c": Variant(8, 4, 32, 87.7, 30.5),
    "d": Variant(8, 8, 32, 87.8, 29.0),
    "e": Variant(16, 8, 128, 87.3, 27.9),
    "b-lpips": Variant(8, 4, 16),
    "b-gan": Variant(8, 4, 16),
}
WIDTHS = (16, 16, 32, 32, 32)
"""Of the stages, scaled down: the released one has 128, 256, 256, 512. A fifth stage compresses space by 16."""


def variant_config(name: str, widths: tuple[int, ...] = WIDTHS) -> VAEConfig:
    """The settings of a column. The baseline is an image autoencoder: no convolution sees more than its frame."""
    variant = TABLE_1[name]
    return VAEConfig(
        block_out_channels=widths[: variant.space.bit_length()],
        latent_channels=variant.channels,
        temporal_compression_ratio=variant.time,
        time_kernel=1 if variant.time == 1 else 3,
        layers_per_block=1,
        norm_num_groups=8,
    )


def variant_run(name: str, steps: int = 400) -> Run:
    """Train one column on clips of the tiny world at mixed frame rates; every column for as many steps and crops."""
    gan = Gan(start=steps // 2, critic=CriticConfig(width=16, most=64, stages=2)) if name == "b-gan" else None
    return Run(
        name=f"table1-{name}",
        out=f"runs/table1/{name}",
        task=VAETraining(
            vae=variant_config(name),
            phases=(CropPhase(until=steps, frames=17, size=32, batch=4, fps=(8, 16)),),
            scene_mix=EVERY_STORY,
            object_weight=4.0,
            l2=10.0,  # squares: a small shape counts too, and PSNR is what is compared
            lpips=0.1 if name.startswith("b-") else 0.0,
            gan=gan,
        ),
        steps=steps,
        optim=OptimConfig(lr=2e-3, warmup=20, ema=0.98),
        precision="bf16",
        measure_every=steps,
        save_every=50,
    )
