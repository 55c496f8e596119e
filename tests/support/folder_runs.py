"""Runs of the transformer on a folder of clips, beside a toy model."""

from __future__ import annotations

from pathlib import Path

from cogvideox.data.clips import ClipSize
from cogvideox.training.config import Run
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData


def settings(place: Path, kind="toy", data=None, **more) -> DiffusionTraining:
    values = dict(
        start=str(place / kind), vae=str(place / kind), text=str(place / kind), cache=str(place / "cache")
    )
    size = ClipSize(frames=17, least_frames=9, short_side=32)
    usual = {"folder": str(place / "clips"), "budget": 80, "held_out": 0.2}
    values["data"] = FolderData(size=size, **(usual | (data or {})))
    return DiffusionTraining(**(values | more))


def run(place: Path, out: Path, steps=4, **more) -> Run:
    optim = OptimConfig(lr=1e-2, warmup=0, ema=0.9)
    return Run(
        name="folder", task=settings(place, **more), out=str(out), steps=steps, optim=optim, save_every=1, log_every=1,
        measure_every=100,
    )  # fmt: skip
