"""The runs whose results ship inside the package, and how to make them again on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cogvideox.data.masks import KEYFRAMES, WORLD_HOLES
from cogvideox.presets import get_preset
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.task import TaskConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.captioner import CaptionerTraining
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import WORLD_TEXT, WORLD_VAE
from cogvideox.training.tasks.features import FeaturesTraining
from cogvideox.training.tasks.label_classifier import ClassifierTraining
from cogvideox.training.tasks.lpips import PerceptualTraining
from cogvideox.training.tasks.text_encoder import TextTraining
from cogvideox.training.tasks.vae import CropPhase, VAETraining


def world_vae() -> Run:
    """The shipped VAE: still frames first, then small crops, whole clips last."""
    return _run(
        "world-vae",
        VAETraining(
            vae=get_preset("tiny").vae,
            phases=(
                CropPhase(until=480, frames=1, size=64, batch=16),
                CropPhase(until=980, frames=9, size=32, batch=8),
                CropPhase(until=1200, frames=17, size=64, batch=2, coding="chunked"),
            ),
        ),
        steps=1200,
        optim=OptimConfig(lr=2e-3, ema=0.99),
        measure_every=300,
        save_every=100,
    )


EVERY_STORY = {
    "motion": 0.15, "size": 0.10, "rotate": 0.15, "transform": 0.15, "count": 0.20, "pan": 0.05, "pair": 0.20,
}  # fmt: skip


def tiny_vae() -> Run:
    """The autoencoder of the recipe ``tiny``: stills of every story, then whole clips in the chunks of inference."""
    return _run(
        "tiny-vae",
        VAETraining(
            vae=get_preset("tiny").vae,
            phases=(
                CropPhase(until=4000, frames=1, size=64, batch=8),
                CropPhase(until=5000, frames=17, size=64, batch=2, coding="chunked"),
            ),
            scene_mix=EVERY_STORY,
            object_weight=4.0,
            l2=2.0,
            edges=1.0,
            kl=1e-4,
        ),
        steps=5000,
        optim=OptimConfig(lr=2e-3, ema=0.999),
        measure_every=500,
        save_every=100,
    )


def world_vae_decoder() -> Run:
    """A sharper decoder for latents that stay as they are, so that a trained transformer goes on serving."""
    return _run(
        "world-vae-decoder",
        VAETraining(
            vae=get_preset("tiny").vae,
            phases=(
                CropPhase(until=800, frames=9, size=32, batch=8, coding="chunked"),
                CropPhase(until=1200, frames=17, size=64, batch=2, coding="chunked"),
            ),
            start="tiny",
            decoder_only=True,
            edges=1.0,
        ),
        steps=1200,
        seed=1,
        optim=OptimConfig(lr=1e-3, ema=0.99),
        measure_every=200,
        save_every=50,
    )


def world_text() -> Run:
    """The shipped text encoder: reads the facts of a scene out of its caption."""
    task = TextTraining(dropout=0.25)
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, ema=0.98)
    return _run("world-text", task, steps=560, optim=optim, measure_every=150)


def world_t2v() -> Run:
    """A text-to-video transformer as the shipped one began, on patches of 2x2. Needs world-vae and world-text."""
    coarse = get_preset("tiny").transformer.with_arm(patch_size=2)
    task = _of_preset("tiny", transformer=coarse, batch=32, clips=9000)
    return _transformer_run("world-t2v", task, steps=9500, lr=1.5e-3, muon_lr=0.02, ema=0.998)


def world_text_pairs() -> Run:
    """The shipped text-to-video model's text encoder: world-text, which learns which of two things is which."""
    task = TextTraining(start="runs/world-text/model", pairs=0.5, keep=5.0, dropout=0.2, batch=64)
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, ema=0.98)
    return _run("world-text-pairs", task, steps=1500, optim=optim, measure_every=250)


RARE_SCENES_OFTEN = {
    "motion": 0.32, "size": 0.12, "rotate": 0.17, "transform": 0.19, "count": 0.14, "pan": 0.06,
}  # fmt: skip


def world_t2v_fine() -> Run:
    """The shipped text-to-video transformer, started from world-t2v: every latent its own patch, rare scenes often."""
    task = _of_preset("tiny", start="runs/world-t2v/model", scene_mix=RARE_SCENES_OFTEN)
    return _transformer_run("world-t2v-fine", task, steps=4500, lr=1e-3, muon_lr=0.015, ema=0.999)


SCENES_WITH_PAIRS = {
    "motion": 0.24, "size": 0.08, "rotate": 0.14, "transform": 0.17, "count": 0.13, "pan": 0.05, "pair": 0.19,
}  # fmt: skip


def world_t2v_pairs() -> Run:
    """The shipped text-to-video transformer, started from world-t2v-fine: two different things too.

    It ran twice: from its own result again with task.start=runs/world-t2v-pairs/model, task.clips_seed=21, seed=22,
    steps=2800.
    """
    task = _of_preset(
        "tiny",
        start="runs/world-t2v-fine/model",
        text="runs/world-text-pairs/model",
        scene_mix=SCENES_WITH_PAIRS,
        clips=9000,
    )
    return _transformer_run("world-t2v-pairs", task, steps=2400, lr=1e-3, muon_lr=0.015, ema=0.999)


def world_i2v() -> Run:
    """The shipped image-to-video transformer, started from world-t2v-fine."""
    task = _of_preset("tiny-i2v", start="runs/world-t2v-fine/model", scene_mix=RARE_SCENES_OFTEN)
    return _transformer_run("world-i2v", task, steps=2300, lr=7e-4, muon_lr=0.01, ema=0.995)


def world_inpaint() -> Run:
    """The shipped text-to-video transformer learns to fill holes in a clip: any video with a mask."""
    return _variant("world-inpaint", model_kind="inpaint", masks=dict(WORLD_HOLES), masks_per_clip=2)


def world_keyframes() -> Run:
    """The shipped text-to-video transformer learns to reach given frames, a last one among them."""
    return _variant("world-keyframes", model_kind="inpaint", masks=dict(KEYFRAMES), masks_per_clip=2)


def world_control() -> Run:
    """The shipped text-to-video transformer learns to follow dots on the paths of its things."""
    return _variant("world-control", model_kind="control", control="path")


def _variant(name: str, **settings: Any) -> Run:
    """The shipped model, whose new input channels begin at zero, on clips of the tiny world.

    With adamw: on a CPU without units for bfloat16 muon takes several times as long as the rest of a step.
    """
    task = DiffusionTraining(
        start="tiny", scene_mix=RARE_SCENES_OFTEN, batch=16, clips=4000, condition_dropout=0.1, **settings
    )
    optim = OptimConfig(lr=5e-4, input_lr=5e-3, warmup=50, ema=0.99)
    return _run(name, task, steps=1500, optim=optim, precision=default_precision(), measure_every=500)


def _of_preset(name: str, **settings: Any) -> DiffusionTraining:
    """Training of a preset's transformer, beside the VAE and text encoder that the other recipes make."""
    preset = get_preset(name)
    usual = {"transformer": preset.transformer, "batch": 16, "vae": WORLD_VAE, "text": WORLD_TEXT}
    return DiffusionTraining(preset=name, schedule=preset.schedule, **(usual | settings))


def _transformer_run(name: str, task: DiffusionTraining, steps: int, **optim: float) -> Run:
    muon = OptimConfig(name="muon", **optim)
    return _run(name, task, steps=steps, optim=muon, precision=default_precision(), measure_every=500)


def _run(name: str, task: TaskConfig, **settings: Any) -> Run:
    return Run(name=name, out=f"runs/{name}", task=task, **settings)


def world_lpips() -> Run:
    """The shipped stand-in for LPIPS, the measure of how different two pictures look."""
    task = PerceptualTraining()
    optim = OptimConfig(lr=2e-3, warmup=20, ema=0.98)
    return _run("world-lpips", task, steps=400, optim=optim, precision="bf16", measure_every=100)


def world_features() -> Run:
    """A feature network for FVD of the tiny world, as the shipped one: facts of clips and how they were spoilt."""
    task = FeaturesTraining()
    optim = OptimConfig(lr=4e-3, weight_decay=1e-2, warmup=300, ema=0.99)
    return _run("world-features", task, steps=3000, seed=7, optim=optim, precision="bf16", measure_every=500)


def world_captioner() -> Run:
    """The shipped captioner: 5 pictures of a clip to a sentence. It stopped at step 1200, see its training.json."""
    task = CaptionerTraining()
    optim = OptimConfig(lr=2e-3, ema=0.99, weight_decay=0.02)
    return _run("world-captioner", task, steps=1450, optim=optim, measure_every=300, save_every=100)


def labels() -> Run:
    """The classifier of the six negative labels, from a folder of clean videos: most of the time goes into samples."""
    task = ClassifierTraining(videos="videos")
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, warmup=50, ema=0.99)
    return _run("labels", task, steps=800, optim=optim, log_every=100, measure_every=400, save_every=400)


SHIPPED: dict[str, Callable[[], Run]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        tiny_vae,
        world_vae, world_vae_decoder, world_text, world_text_pairs, world_t2v, world_t2v_fine, world_t2v_pairs,
        world_i2v, world_inpaint, world_keyframes, world_control, world_captioner, world_lpips, world_features, labels,
    )
}  # fmt: skip
"""Recipe -> the function that makes its run."""
