"""The richer world, 33 frames of 128x128, by a transformer of 17 M weights: one chain from nothing, for one GPU."""

from __future__ import annotations

from typing import Any

from cogvideox.presets import get_preset
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.sequence import ChainedRun, ChainStage
from cogvideox.training.task import TaskConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.crops import CropPhase
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import SceneTargets
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.distil_methods import FoldGuidance, Progressive
from cogvideox.training.tasks.text_encoder import TextTraining
from cogvideox.training.tasks.vae import VAETraining

SIDE, FRAMES, TOKENS = 128, 33, 40
"""Pixels of a side, frames, and tokens of a caption."""
STORIES = {
    "motion": 0.10, "size": 0.05, "rotate": 0.12, "transform": 0.17, "count": 0.14, "pan": 0.05, "pair": 0.10,
    "duet": 0.12, "meet": 0.15,
}  # fmt: skip
"""Shares of the stories in training: those that are hard to learn are shown more often than the test asks for them."""
RICH: dict[str, Any] = {"scene_style": "rich", "scene_mix": STORIES}
CLIPS: dict[str, Any] = RICH | {"size": SIDE, "frames": FRAMES, "clips": 20000}
SMALL = get_preset("tiny").transformer.with_arm(
    num_layers=10, num_attention_heads=10, patch_size=2, sample_height=SIDE // 8, sample_width=SIDE // 8,
    sample_frames=FRAMES, max_text_seq_length=TOKENS,
)  # fmt: skip
"""320 wide, 10 blocks, patches of 2x2: 576 video tokens."""
STEPS = (16, 8)
"""Steps of the students, one after the other."""


def small() -> ChainedRun:
    """A model of the richer world from nothing, on one GPU: VAE, text encoder, text and image to video, few steps."""
    coded = {"task.vae": "vae", "task.text": "text"}
    return ChainedRun(
        name="small",
        out="runs/small",
        stages=(
            ChainStage(name="vae", run=_vae()),
            ChainStage(name="text", run=_text()),
            ChainStage(name="t2v", run=small_t2v(), reads=coded),
            ChainStage(name="i2v", run=_i2v(), reads=coded | {"task.start": "t2v"}),
            *_students(),
        ),
    )


def small_t2v() -> Run:
    """The transformer of the richer world alone, on a GPU; task.vae and task.text name results of the chain small."""
    task = _diffusion("tiny", transformer=SMALL, object_weight=3.0, scene_targets=SceneTargets(block=5))
    return _run("small-t2v", task, steps=14000, optim=_muon(lr=1e-3, muon_lr=0.02, ema=0.9995))


def _vae() -> Run:
    """Stills, then crops of short clips, then whole clips in the chunks of inference."""
    task = VAETraining(
        vae=get_preset("tiny").vae.changed(sample_height=SIDE, sample_width=SIDE),
        size=SIDE,
        frames=FRAMES,
        phases=(
            CropPhase(until=2000, frames=1, size=SIDE, batch=16),
            CropPhase(until=5500, frames=9, size=SIDE // 2, batch=16),
            CropPhase(until=7000, frames=FRAMES, size=SIDE, batch=4, coding="chunked"),
        ),
        object_weight=4.0,
        l2=2.0,
        edges=1.0,
        kl=1e-4,
        **RICH,
    )
    optim = OptimConfig(lr=2e-3, ema=0.999)
    return _run("small-vae", task, steps=7000, optim=optim, measure_every=1000)


def _text() -> Run:
    task = TextTraining(dropout=0.15, vocabulary=512, max_tokens=TOKENS, **RICH)
    return _run("small-text", task, steps=4000, optim=OptimConfig(lr=2e-3, weight_decay=0.05, ema=0.99))


def _i2v() -> Run:
    task = _diffusion(
        "tiny-i2v", transformer=SMALL.with_arm(in_channels=32), object_weight=3.0, condition_dropout=0.1
    )
    return _run("small-i2v", task, steps=2000, optim=_muon(lr=7e-4, muon_lr=0.01, ema=0.998))


def _students() -> tuple[ChainStage, ...]:
    """Guidance folded in, then progressive distillation; each starts from the one before."""
    methods: list[tuple[str, FoldGuidance | Progressive]] = [("guidance", FoldGuidance(guidance=3.5))]
    methods += [(f"steps-{steps}", Progressive(steps=steps)) for steps in STEPS]
    stages, before = [], "t2v"
    for name, method in methods:
        task = DistilTraining(start="tiny-base", method=method, batch=32, samples=8, **CLIPS)
        optim = _muon(lr=3e-4, muon_lr=0.005, ema=0.995, warmup=20, decay=1.0)
        run = _run(f"small-{name}", task, steps=1500, optim=optim)
        stages.append(ChainStage(name=name, run=run, reads={"task.start": before}))
        before = name
    return tuple(stages)


def _diffusion(preset: str, **settings: Any) -> DiffusionTraining:
    schedule = get_preset(preset).schedule
    paths = {"vae": "runs/small/1-vae/model", "text": "runs/small/2-text/model"}
    return DiffusionTraining(
        preset=preset, schedule=schedule, batch=64, samples=8, **(CLIPS | paths | settings)
    )


def _muon(**settings: float) -> OptimConfig:
    return OptimConfig(**({"name": "muon", "schedule": "wsd", "weight_decay": 0.01} | settings))


def _run(name: str, task: TaskConfig, **settings: Any) -> Run:
    usual = {"precision": default_precision(), "measure_every": 500, "save_every": 500}
    if isinstance(task, VAETraining | TextTraining):
        usual = {"measure_every": 500, "save_every": 500}
    return Run(name=name, out=f"runs/{name}", task=task, **(usual | settings))
