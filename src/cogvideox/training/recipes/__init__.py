"""Whole runs, each a function that returns a complete config. Times were measured on 2 CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cogvideox.data.clips import ClipSize
from cogvideox.errors import ConfigError, suggest
from cogvideox.files import read_yaml
from cogvideox.presets import get_preset
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes.shipped import SHIPPED
from cogvideox.training.recipes.vae_variants import TABLE_1, variant_run
from cogvideox.training.stages import DiffusionRun, StagedRun, TrainingStage, train_stages
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.tasks.base_model import usual_precision
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.lora import LoraTuning


def finetune() -> Run:
    """All weights of a model on a folder of clips: set task.data.folder and task.start (a preset or a folder)."""
    return _from_a_model("finetune", FolderData(), OptimConfig(lr=1e-5, warmup=50, ema=0.999), parts=4)


def lora() -> Run:
    """An adapter for a model on a folder of clips: set task.data.folder and task.start (a preset or a folder)."""
    optim = OptimConfig(lr=5e-4, warmup=50, ema=0.99)
    return _from_a_model("lora", FolderData(), optim, parts=4, lora=LoraTuning())


def films_lora() -> Run:
    """Raw videos to an adapter in one command: set task.data.films, and task.start for another than the shipped model.

    Captions: a .txt beside each film, or a curation recipe that writes them; a clip without one is left out unless
    `task.data.caption` says what to call it.
    """
    data = FolderData(films="", folder="runs/films/curated")
    run = _from_a_model(
        "films-lora", data, OptimConfig(lr=5e-4, warmup=20, ema=0.99), steps=200, lora=LoraTuning()
    )
    return run.model_copy(update={"out": "runs/films/lora"})


def _from_a_model(
    name: str,
    data: FolderData,
    optim: OptimConfig,
    steps: int = 1000,
    parts: int = 1,
    lora: LoraTuning | None = None,
) -> Run:
    return Run(
        name=name,
        out=f"runs/{name}",
        task=DiffusionTraining(start="tiny", data=data, parts=parts, lora=lora),
        steps=steps,
        optim=optim,
        precision=usual_precision(),
        measure_every=max(100, steps // 5),
    )


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
    optim = OptimConfig(name="muon", muon_lr=0.02, ema=0.99)
    base = DiffusionRun(
        name="world-stages",
        out="runs/world-stages",
        task=task,
        optim=optim,
        precision=usual_precision(),
        measure_every=100,
    )
    small, whole = ({"fps": 8, "frames": 17, "least_frames": 9, "short_side": side} for side in (32, 64))
    return StagedRun(
        base=base,
        stages=(
            TrainingStage(name="32", steps=600, size=ClipSize(**small), lr=1.5e-3, budget=1000, parts=1),
            TrainingStage(name="64", steps=600, size=ClipSize(**whole), lr=1e-3, budget=2000, parts=1),
            TrainingStage(
                name="best", steps=100, size=ClipSize(**whole), lr=2e-4, budget=2000, parts=1, best=0.2
            ),
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
        data=FolderData(),
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
            TrainingStage(
                name="256", steps=400_000, size=low, lr=1e-4, warmup=1000, parts=2000, budget=25_000 // 4
            ),
            TrainingStage(
                name="480", steps=220_000, size=middle, lr=1e-4, warmup=1000, parts=1000, budget=75_000 // 4
            ),
            TrainingStage(
                name="768", steps=120_000, size=high, lr=5e-5, warmup=1000, parts=250, budget=700_000 // 4
            ),
            TrainingStage(
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


RECIPES: dict[str, Callable[[], Run | StagedRun]] = {
    **SHIPPED,
    "finetune": finetune,
    "lora": lora,
    "films-lora": films_lora,
    "world-stages": world_stages,
    "paper-2b": paper_2b,
    "paper-5b": paper_5b,
}


def table1(name: str) -> Run:
    """A column of Table 1 in miniature, see ``training/recipes/vae_variants.py``."""
    return Run.parse(variant_run(name).model_dump())


RECIPES |= {f"table1-{name}": partial(table1, name) for name in TABLE_1}


def recipe(name: str) -> Run | StagedRun:
    """The run called ``name``; ConfigError with a suggestion when there is none."""
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: unknown{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def run_file(path: str | Path) -> Run | StagedRun:
    """A run from a YAML file; one that declares ``stages`` is a progressive run. Raises ConfigError."""
    values = read_yaml(path)
    staged = isinstance(values, dict) and "stages" in values
    return StagedRun.from_yaml(path) if staged else Run.from_yaml(path)


def run(config: Run | StagedRun) -> Path:
    """Train, in one stage or several; the folder of the result."""
    return train_stages(config) if isinstance(config, StagedRun) else train(config)
