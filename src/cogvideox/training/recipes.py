"""Whole runs, each a function that returns a complete config. Times were measured on 2 CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from cogvideox.data.clips import ClipSize
from cogvideox.errors import ConfigError, suggest
from cogvideox.presets import get_preset
from cogvideox.training.captioner import CaptionerTraining
from cogvideox.training.classifier import ClassifierTraining
from cogvideox.training.diffusion import DiffusionTraining
from cogvideox.training.folder import FolderData
from cogvideox.training.guard import GuardConfig
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.lora import LoraTuning
from cogvideox.training.optim import OptimConfig
from cogvideox.training.perceptual import PerceptualTraining
from cogvideox.training.stages import DiffusionRun, Stage, StagedRun, train_stages
from cogvideox.training.summariser import SummariserTraining
from cogvideox.training.text import TextTraining
from cogvideox.training.vae import Crops, VAETraining
from cogvideox.training.variants import TABLE_1, variant_run


class Run(TrainConfig):
    """A whole run of one of the tasks this package knows."""

    task: Annotated[
        VAETraining
        | TextTraining
        | DiffusionTraining
        | CaptionerTraining
        | SummariserTraining
        | PerceptualTraining
        | ClassifierTraining,
        Field(discriminator="kind"),
    ]


def world_vae() -> Run:
    """The shipped VAE: still frames first, then small crops, whole clips last."""
    return Run(
        name="world-vae",
        out="runs/world-vae",
        task=VAETraining(
            vae=get_preset("tiny").vae,
            phases=(
                Crops(until=480, frames=1, size=64, batch=16),
                Crops(until=980, frames=9, size=32, batch=8),
                Crops(until=1200, frames=17, size=64, batch=2, coding="chunked"),
            ),
        ),
        steps=1200,
        optim=OptimConfig(lr=2e-3, ema=0.99),
        precision="bf16",
        measure_every=300,
        save_every=100,
    )


def world_vae_decoder() -> Run:
    """A sharper decoder for latents that stay as they are, so that a trained transformer goes on serving."""
    return Run(
        name="world-vae-decoder",
        out="runs/world-vae-decoder",
        task=VAETraining(
            vae=get_preset("tiny").vae,
            phases=(
                Crops(until=800, frames=9, size=32, batch=8, coding="chunked"),
                Crops(until=1200, frames=17, size=64, batch=2, coding="chunked"),
            ),
            start="tiny",
            decoder_only=True,
            edges=1.0,
        ),
        steps=1200,
        seed=1,
        optim=OptimConfig(lr=1e-3, ema=0.99),
        precision="bf16",
        measure_every=200,
        save_every=50,
    )


def world_text() -> Run:
    """The shipped text encoder: reads the facts of a scene out of its caption."""
    return Run(
        name="world-text",
        out="runs/world-text",
        task=TextTraining(dropout=0.25),
        steps=560,
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, ema=0.98),
        measure_every=150,
    )


def world_t2v() -> Run:
    """A text-to-video transformer as the shipped one began. Needs the results of world-vae and world-text."""
    preset = get_preset("tiny")
    return Run(
        name="world-t2v",
        out="runs/world-t2v",
        task=DiffusionTraining(
            preset="tiny", transformer=preset.transformer, schedule=preset.schedule, clips=9000
        ),
        steps=9500,
        optim=OptimConfig(name="muon", lr=1.5e-3, muon_lr=0.02, ema=0.998),
        precision="bf16",
        measure_every=500,
    )


def world_i2v() -> Run:
    """The shipped image-to-video transformer, started from world-t2v."""
    preset = get_preset("tiny-i2v")
    return Run(
        name="world-i2v",
        out="runs/world-i2v",
        task=DiffusionTraining(
            preset="tiny-i2v",
            transformer=preset.transformer,
            schedule=preset.schedule,
            start="runs/world-t2v/model",
        ),
        steps=1200,
        optim=OptimConfig(name="muon", lr=7e-4, muon_lr=0.01, ema=0.995),
        precision="bf16",
        measure_every=500,
    )


def world_lpips() -> Run:
    """The shipped stand-in for LPIPS, the measure of how different two pictures look."""
    return Run(
        name="world-lpips",
        out="runs/world-lpips",
        task=PerceptualTraining(),
        steps=400,
        optim=OptimConfig(lr=2e-3, warmup=20, ema=0.98),
        precision="bf16",
        measure_every=100,
    )


def finetune() -> Run:
    """All weights of a model on a folder of clips: set task.data.folder, task.start, task.vae and task.text."""
    return Run(
        name="finetune",
        out="runs/finetune",
        task=DiffusionTraining(
            start="tiny", vae="tiny", text="tiny", data=FolderData(folder="clips"), parts=4
        ),
        steps=1000,
        optim=OptimConfig(lr=1e-5, warmup=50, ema=0.999),
        precision="bf16",
        measure_every=200,
    )


def lora() -> Run:
    """An adapter for a model on a folder of clips: set task.data.folder, task.start, task.vae and task.text."""
    return Run(
        name="lora",
        out="runs/lora",
        task=DiffusionTraining(
            start="tiny", vae="tiny", text="tiny", data=FolderData(folder="clips"), parts=4, lora=LoraTuning()
        ),
        steps=1000,
        optim=OptimConfig(lr=5e-4, warmup=50, ema=0.99),
        precision="bf16",
        measure_every=200,
    )


def films_lora() -> Run:
    """Raw videos to an adapter in one command, at the size of the shipped model: set task.data.films.

    Captions: a .txt beside each film, or a curation recipe that writes them; `task.data.caption` where there is none.
    """
    data = FolderData(
        films="films",
        folder="runs/films/curated",
        caption="a film clip",
        size=ClipSize(fps=8, frames=17, short_side=64),
    )
    return Run(
        name="films-lora",
        out="runs/films/lora",
        task=DiffusionTraining(start="tiny", vae="tiny", text="tiny", data=data, lora=LoraTuning()),
        steps=200,
        optim=OptimConfig(lr=5e-4, warmup=20, ema=0.99),
        precision="bf16",
        measure_every=100,
    )


def world_captioner() -> Run:
    """The shipped captioner: 5 pictures of a clip to a sentence. It stopped at step 1200, see its training.json."""
    return Run(
        name="world-captioner",
        out="runs/world-captioner",
        task=CaptionerTraining(),
        steps=1450,
        optim=OptimConfig(lr=2e-3, ema=0.99, weight_decay=0.02),
        measure_every=300,
        save_every=100,
    )


def world_stages() -> StagedRun:
    """The paper's progressive recipe in miniature, on a folder of world clips with scores: task.data.folder."""
    preset = get_preset("tiny")
    task = DiffusionTraining(
        transformer=preset.transformer,
        schedule=preset.schedule,
        vae="tiny",
        text="tiny",
        data=FolderData(folder="runs/world-clips", held_out=0.1),
    )
    optim = OptimConfig(name="muon", muon_lr=0.02, ema=0.99)
    base = DiffusionRun(
        name="world-stages",
        out="runs/world-stages",
        task=task,
        optim=optim,
        precision="bf16",
        measure_every=100,
    )
    small, whole = ({"fps": 8, "frames": 17, "least_frames": 9, "short_side": side} for side in (32, 64))
    return StagedRun(
        base=base,
        stages=(
            Stage(name="32", steps=600, size=ClipSize(**small), lr=1.5e-3, budget=1000, parts=1),
            Stage(name="64", steps=600, size=ClipSize(**whole), lr=1e-3, budget=2000, parts=1),
            Stage(name="best", steps=100, size=ClipSize(**whole), lr=2e-4, budget=2000, parts=1, best=0.2),
        ),
    )


def paper(preset: str) -> StagedRun:
    """Tables 5 and 6 for the 2B or 5B preset; one process would need years. Peak rates are ours, the paper has none.

    Table 5 counts latents before patches: its sequence lengths over four are the tokens of a row here.
    """
    row = get_preset(preset)
    task = DiffusionTraining(
        preset=preset,
        transformer=row.transformer.with_arm(
            position_mode="slice"
        ),  # section 2.2: extrapolated, not interpolated
        schedule=row.schedule,
        vae=preset,
        text=preset,
        data=FolderData(folder="clips"),
        recompute=True,
        device="cuda",
    )
    base = DiffusionRun(
        name=f"paper-{preset}",
        out=f"runs/paper-{preset}",
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
    return StagedRun(
        base=base,
        stages=(
            Stage(name="256", steps=400_000, size=low, lr=1e-4, warmup=1000, parts=2000, budget=25_000 // 4),
            Stage(
                name="480", steps=220_000, size=middle, lr=1e-4, warmup=1000, parts=1000, budget=75_000 // 4
            ),
            Stage(name="768", steps=120_000, size=high, lr=5e-5, warmup=1000, parts=250, budget=700_000 // 4),
            Stage(
                name="best",
                steps=10_000,
                size=high,
                lr=1e-5,
                warmup=500,
                parts=100,
                budget=700_000 // 4,
                best=0.2,
            ),
        ),
    )


def paper_2b() -> StagedRun:
    """Tables 5 and 6, 2B: four stages; a cluster's work."""
    return paper("2b")


def paper_5b() -> StagedRun:
    """Tables 5 and 6, 5B: four stages; a cluster's work."""
    return paper("5b")


def labels() -> Run:
    """The classifier of the six negative labels, from a folder of clean films: most of the time goes into samples."""
    return Run(
        name="labels",
        out="runs/labels",
        task=ClassifierTraining(films="films"),
        steps=1200,
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, warmup=50, ema=0.99),
        log_every=100,
        measure_every=400,
        save_every=400,
    )


RECIPES: dict[str, Callable[[], Run | StagedRun]] = {
    "world-vae": world_vae,
    "world-vae-decoder": world_vae_decoder,
    "finetune": finetune,
    "lora": lora,
    "films-lora": films_lora,
    "paper-2b": paper_2b,
    "paper-5b": paper_5b,
    "world-stages": world_stages,
    "world-text": world_text,
    "world-t2v": world_t2v,
    "world-i2v": world_i2v,
    "world-captioner": world_captioner,
    "world-lpips": world_lpips,
    "labels": labels,
}


def table1(name: str) -> Run:
    """A column of Table 1 in miniature, see ``training/variants.py``."""
    return Run.parse(variant_run(name).model_dump())


RECIPES |= {f"table1-{name}": partial(table1, name) for name in TABLE_1}


def recipe(name: str) -> Run | StagedRun:
    """The run called ``name``; ConfigError with a suggestion when there is none."""
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: unknown{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def run_file(path: str | Path) -> Run | StagedRun:
    """A run from a YAML file; one that declares ``stages`` is a progressive run. Raises ConfigError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        values = None  # read again below, where what is wrong is told
    staged = isinstance(values, dict) and "stages" in values
    return StagedRun.from_yaml(path) if staged else Run.from_yaml(path)


def run(config: Run | StagedRun) -> Path:
    """Train, in one stage or several; the folder of the result."""
    return train_stages(config) if isinstance(config, StagedRun) else train(config)
