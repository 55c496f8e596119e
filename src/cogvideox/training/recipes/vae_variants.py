"""The autoencoders of Table 1 as values, scaled down, and the runs that compare them with equal budgets.

``b-lpips`` and ``b-gan`` are B with the paper's other losses, for GAN on and off.
"""

from __future__ import annotations

from typing import NamedTuple

from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.vae import CropPhase, Gan, VAETraining
from cogvideox.vae import VAEConfig
from cogvideox.vae.losses import CriticConfig


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
