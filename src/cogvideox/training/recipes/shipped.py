"""The runs whose results ship inside the package, and how to make them again on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cogvideox.data.masks import KEYFRAMES, WORLD_HOLES
from cogvideox.presets import get_preset
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.sequence import ChainedRun, ChainStage, RunSequence
from cogvideox.training.task import TaskConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.captioner import CaptionerTraining
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import WORLD_TEXT, WORLD_VAE, SceneTargets
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.distil_methods import Progressive
from cogvideox.training.tasks.features import FeaturesTraining
from cogvideox.training.tasks.label_classifier import ClassifierTraining
from cogvideox.training.tasks.lpips import PerceptualTraining
from cogvideox.training.tasks.text_encoder import TextTraining
from cogvideox.training.tasks.vae import CropPhase, VAETraining

EVERY_STORY = {
    "motion": 0.15, "size": 0.10, "rotate": 0.15, "transform": 0.15, "count": 0.20, "pan": 0.05, "pair": 0.20,
}  # fmt: skip

MANY_SMALL_THINGS = {
    "motion": 0.22, "size": 0.08, "rotate": 0.16, "transform": 0.08, "count": 0.33, "pan": 0.03, "pair": 0.10,
}  # fmt: skip
"""What several small things that move together look like is learned last: small crosses became stars otherwise."""


def world_vae() -> Run:
    """A VAE like the shipped one: stills of every story, then rounds of stills, moving crops that show something, and
    whole clips in the chunks of inference.

    Motion comes early and again and again: after 4,000 steps of stills alone, 1,000 of clips could not teach it any
    more. Half of the crops have turned hues, so that outlines do not hang on colours. Latents are disturbed, so that
    what a transformer gets slightly wrong is seen less.
    """
    task = VAETraining(
        vae=get_preset("tiny").vae,
        phases=(
            CropPhase(until=400, frames=1, size=64, batch=8),
            CropPhase(until=404, frames=1, size=64, batch=8),
            CropPhase(until=416, frames=17, size=32, batch=8, coding="chunked", on_objects=True),
            CropPhase(until=430, frames=17, size=64, batch=2, coding="chunked"),
        ),
        repeat_from=400,
        scene_mix=MANY_SMALL_THINGS,
        object_weight=5.0,
        hues=0.5,
        latent_noise=0.2,
        l2=2.0,
        edges=1.5,
        kl=1e-4,
    )
    optim = OptimConfig(lr=2e-3, schedule="wsd", decay=0.4, ema=0.998)
    return _run(
        "world-vae",
        task,
        steps=5000,
        optim=optim,
        precision=default_precision(),
        measure_every=500,
        save_every=100,
    )


def world_text() -> Run:
    """The shipped text encoder: reads the facts of a scene out of its caption, and at each token whose it is."""
    task = TextTraining(dropout=0.15, scene_mix=EVERY_STORY)
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, ema=0.99)
    return _run("world-text", task, steps=2400, optim=optim, measure_every=300)


HARD_STORIES_OFTEN = {
    "motion": 0.13, "size": 0.14, "rotate": 0.12, "transform": 0.18, "count": 0.22, "pan": 0.03, "pair": 0.18,
}  # fmt: skip
HARD_AND_MOVING = {
    "motion": 0.22, "size": 0.13, "rotate": 0.12, "transform": 0.15, "count": 0.18, "pan": 0.05, "pair": 0.15,
}  # fmt: skip
"""Outlines of things that move need the most training. One mix from the transformer to its students: clips are encoded
once."""
SCENES: dict[str, Any] = {
    "scene_mix": HARD_AND_MOVING, "clips": 9000, "object_weight": 3.0, "scene_targets": SceneTargets(),
}  # fmt: skip
"""How the shipped transformers see the tiny world."""


LEAN = 1.5
"""Between even times, at whose end one thing was drawn as two more often, and 3, with which outlines suffered. Tried on
the students and in 2,000 last steps of the transformer, not from nothing."""


def world_t2v() -> Run:
    """A text-to-video transformer as the shipped one begins, on patches of 2x2. Needs world-vae and world-text.

    Its times lean towards noise: it learns the layout, world-t2v-fine the detail.
    """
    coarse = get_preset("tiny").transformer.with_arm(patch_size=2)
    task = _of_preset("tiny", transformer=coarse, batch=32, time_shift=3.0, **SCENES)
    return _transformer_run("world-t2v", task, steps=6000, lr=1.5e-3, muon_lr=0.02, ema=0.998)


def world_t2v_fine() -> Run:
    """The shipped text-to-video transformer, started from world-t2v: every latent its own patch."""
    task = _of_preset("tiny", start="runs/world-t2v/model", time_shift=LEAN, **SCENES)
    return _transformer_run("world-t2v-fine", task, steps=10000, lr=1e-3, muon_lr=0.015, ema=0.999)


def world_i2v() -> Run:
    """The shipped image-to-video transformer, started from world-t2v-fine."""
    task = _of_preset("tiny-i2v", start="runs/world-t2v-fine/model", **SCENES)
    return _transformer_run("world-i2v", task, steps=1000, lr=7e-4, muon_lr=0.01, ema=0.995)


STUDENTS = {16: 700, 8: 1000}
"""Steps of the students of ``distil-tiny``, one after the other, and of their training; one like the last ships. The
first takes the guidance in as well: one run fewer than to fold it in before."""
DETAIL: dict[str, Any] = {"truth_below": 200, "object_weight": 3.0, "time_shift": 0.5}
"""The last student learns its least noisy time from clips: its teacher's answers blur outlines there. At the two times
before it clips would unteach the shapes that are held out in some colours."""


def distil_tiny() -> ChainedRun:
    """Few steps for the shipped teacher, tiny-base: 16 that do what 32 with guidance did, then 8.

    For another teacher set ``stages.0.run.task.start``.
    """
    first, *others = _students()
    stages = (first.changed(reads={}), *others)
    return ChainedRun(name="distil-tiny", out="runs/distil-tiny", stages=stages)


def tiny() -> ChainedRun:
    """The shipped models from nothing: VAE, text encoder, text to video, image to video, few steps."""
    coded = {"task.vae": "vae", "task.text": "text"}
    return ChainedRun(
        name="tiny",
        out="runs/tiny",
        stages=(
            ChainStage(name="vae", run=world_vae()),
            ChainStage(name="text", run=world_text()),
            ChainStage(name="coarse", run=world_t2v(), reads=coded),
            ChainStage(name="t2v", run=world_t2v_fine(), reads=coded | {"task.start": "coarse"}),
            ChainStage(name="i2v", run=world_i2v(), reads=coded | {"task.start": "t2v"}),
            *(student.changed(reads=student.reads | coded) for student in _students()),
        ),
    )


def _students() -> tuple[ChainStage, ...]:
    """The runs of distillation: each starts from the one before, the first from the run called t2v.

    A model stores its autoencoder in float16, which would encode all clips again: a chain reads the one of its own.
    """
    stages, before = [], "t2v"
    for steps, trained in STUDENTS.items():
        name, method = f"steps-{steps}", Progressive(steps=steps, guidance=2.0 if before == "t2v" else None)
        task = DistilTraining(
            start="tiny-base",
            method=method,
            scene_mix=HARD_AND_MOVING,
            clips=9000,
            batch=16,
            **({"time_shift": LEAN} if steps != min(STUDENTS) else DETAIL),
        )
        optim = OptimConfig(
            name="muon", lr=3e-4, muon_lr=0.005, warmup=20, schedule="wsd", decay=1.0, ema=0.99
        )
        run = _run(
            f"tiny-{name}",
            task,
            steps=trained,
            optim=optim,
            precision=default_precision(),
            measure_every=200,
        )
        stages.append(ChainStage(name=name, run=run, reads={"task.start": before}))
        before = name
    return tuple(stages)


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

    The layer that reads them learns at a rate of its own: with adamw, half that rate and fewer samples a model hardly
    read its condition.
    """
    task = DiffusionTraining(
        start="tiny-base",
        scene_mix=HARD_STORIES_OFTEN,
        batch=16,
        clips=3000,
        condition_dropout=0.1,
        **settings,
    )
    return _transformer_run(name, task, steps=1300, lr=7e-4, muon_lr=0.01, ema=0.99, input_lr=1e-2, warmup=50)


def _of_preset(name: str, **settings: Any) -> DiffusionTraining:
    """Training of a preset's transformer, beside the VAE and text encoder that the other recipes make."""
    preset = get_preset(name)
    usual = {"transformer": preset.transformer, "batch": 16, "vae": WORLD_VAE, "text": WORLD_TEXT}
    return DiffusionTraining(preset=name, schedule=preset.schedule, **(usual | settings))


def _transformer_run(name: str, task: DiffusionTraining, steps: int, **optim: float) -> Run:
    muon = OptimConfig(name="muon", schedule="wsd", weight_decay=0.01, **optim)
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


SHIPPED: dict[str, Callable[[], Run | RunSequence]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        tiny, distil_tiny, world_vae, world_text, world_t2v, world_t2v_fine, world_i2v, world_inpaint, world_keyframes,
        world_control, world_captioner, world_lpips, world_features, labels,
    )
}  # fmt: skip
"""Recipe -> the function that makes its run."""
