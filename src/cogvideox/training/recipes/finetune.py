"""Fine-tuning recipes: all weights of a model or an adapter, on a folder of clips or raw videos; further conditions."""

from __future__ import annotations

from typing import Any

from cogvideox.data.masks import HOLES, KEYFRAMES
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.base_model import default_precision
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import LoraTuning, TrainedKind
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.distil_methods import FoldGuidance, TrajectoryMatching
from cogvideox.training.tasks.distil_prompts import PromptFile
from cogvideox.training.tasks.folder import FolderData


def finetune() -> Run:
    """All weights of a model on a folder of clips: set task.data.folder and task.start (a preset or a folder)."""
    task = DiffusionTraining(start="tiny-base", data=FolderData(), accumulation=4)
    return _run("finetune", task, OptimConfig(lr=1e-5, warmup=50, ema=0.999))


def lora() -> Run:
    """An adapter for a model on a folder of clips: set task.data.folder and task.start (a preset or a folder)."""
    task = DiffusionTraining(start="tiny-base", data=FolderData(), accumulation=4, lora=LoraTuning())
    return _run("lora", task, OptimConfig(lr=5e-4, warmup=50, ema=0.99))


def inpaint() -> Run:
    """A text-to-video model learns to fill holes in a video (CogVideoX-Fun InP): task.data.folder, task.start."""
    task = _conditioned("inpaint", masks=dict(HOLES), condition_dropout=0.1)
    return _run("inpaint", task, OptimConfig(lr=2e-5, warmup=100, ema=0.999), steps=4000)


def keyframes() -> Run:
    """A text-to-video model learns to reach given frames, a last one among them: task.data.folder, task.start."""
    task = _conditioned("inpaint", masks=dict(KEYFRAMES), condition_dropout=0.1)
    return _run("keyframes", task, OptimConfig(lr=2e-5, warmup=100, ema=0.999), steps=4000)


def control() -> Run:
    """A text-to-video model learns to follow a control video, edges by default: task.data.folder, task.control."""
    task = _conditioned("control", control="canny", condition_dropout=0.1)
    return _run("control", task, OptimConfig(lr=2e-5, warmup=100, ema=0.999), steps=4000)


def _conditioned(kind: TrainedKind, **settings: Any) -> DiffusionTraining:
    return DiffusionTraining(
        start="tiny-base", data=FolderData(), accumulation=4, model_kind=kind, **settings
    )


def distil() -> Run:
    """Few steps: first guidance folded into one network pass; other methods by task.method, other models by task.start.

    Without ``task.data.folder`` the clips are the tiny world's.
    """
    task = DistilTraining(start="tiny-base", clips=9000, batch=16, method=FoldGuidance(guidance=2.0))
    return _run("distil", task, OptimConfig(lr=1e-4, warmup=20, ema=0.99), steps=600)


def distil_lora() -> Run:
    """An adapter that makes four steps of a model without guidance (TDM): set task.data.folder, and task.start."""
    task = DistilTraining(
        start="tiny-base", data=FolderData(), accumulation=4, lora=LoraTuning(), method=TrajectoryMatching()
    )
    optim = OptimConfig(lr=1e-4, warmup=5, betas=(0.0, 0.95), ema=0.0)
    return _run("distil-lora", task, optim, steps=300).changed(critic=optim.changed(lr=5e-4))


def distil_2b() -> Run:
    """Four steps for CogVideoX-2B, an adapter by TDM from a file of prompts: set task.prompts.file.

    A step reads 32 prompts, in any number of processes.
    """
    return _distil_prompts("distil-2b", "2b", TrajectoryMatching())


def distil_5b() -> Run:
    """Eight steps for CogVideoX-5B, an adapter by TDM from a file of prompts: set task.prompts.file."""
    times = (999, 874, 749, 624, 499, 374, 249, 124)
    return _distil_prompts("distil-5b", "5b", TrajectoryMatching(times=times))


def _distil_prompts(name: str, start: str, method: TrajectoryMatching) -> Run:
    """As VIDEO-BLADE trains CogVideoX (arXiv 2508.10774): rank 64, the fake score five times as fast, no average."""
    task = DistilTraining(
        start=start,
        prompts=PromptFile(file="prompts.txt"),
        batch=1,
        accumulation=32,
        lora=LoraTuning(),
        method=method,
    )
    optim = OptimConfig(lr=1e-4, warmup=5, betas=(0.0, 0.95), ema=0.0)
    run = _run(name, task, optim, steps=300).changed(critic=optim.changed(lr=5e-4))
    return run.changed(save_every=15, measure_every=30)


def videos_lora() -> Run:
    """Raw videos to an adapter in one command: set task.data.videos, and task.start for another than the shipped model.

    Captions: a .txt beside each video, or a curation recipe that writes them; a clip without one is left out unless
    `task.data.caption` gives the caption of such clips.
    """
    data = FolderData(videos="", folder="runs/videos/curated")
    task = DiffusionTraining(start="tiny-base", data=data, lora=LoraTuning())
    optim = OptimConfig(lr=5e-4, warmup=20, ema=0.99)
    return _run("videos-lora", task, optim, steps=200, out="runs/videos/lora")


def _run(name: str, task: DiffusionTraining, optim: OptimConfig, steps: int = 1000, out: str = "") -> Run:
    return Run(
        name=name,
        out=out or f"runs/{name}",
        task=task,
        steps=steps,
        optim=optim,
        precision=default_precision(),
        measure_every=max(100, steps // 5),
    )
