"""Recipes by name, and runs read from files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cogvideox.errors import ConfigError, suggest
from cogvideox.files import read_yaml
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.recipes.finetune import (
    control,
    distil,
    distil_2b,
    distil_5b,
    distil_lora,
    finetune,
    inpaint,
    keyframes,
    lora,
    videos_lora,
)
from cogvideox.training.recipes.paper import TABLE_1, paper_2b, paper_5b, variant_run, world_stages
from cogvideox.training.recipes.rich_world import small, small_t2v
from cogvideox.training.recipes.shipped import SHIPPED
from cogvideox.training.sequence import ChainedRun, RunSequence, train_in_order
from cogvideox.training.stages import StagedRun

RECIPES: dict[str, Callable[[], Run | RunSequence]] = {
    **SHIPPED,
    "small": small,
    "small-t2v": small_t2v,
    "finetune": finetune,
    "lora": lora,
    "videos-lora": videos_lora,
    "inpaint": inpaint,
    "keyframes": keyframes,
    "control": control,
    "distil": distil,
    "distil-lora": distil_lora,
    "distil-2b": distil_2b,
    "distil-5b": distil_5b,
    "world-stages": world_stages,
    "paper-2b": paper_2b,
    "paper-5b": paper_5b,
    **{f"table1-{name}": partial(variant_run, name) for name in TABLE_1},
}


def recipe(name: str) -> Run | RunSequence:
    """The run called ``name``; ConfigError with a suggestion when there is none."""
    if name == "films-lora":
        return _films_lora()
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: unknown{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def _films_lora() -> Run:
    """``videos-lora`` under its old name and with its old folders, so that runs begun so are found and resumed."""
    warnings.warn(
        "recipe films-lora: is called videos-lora now; the old name will be refused by the next release",
        FutureWarning,
        stacklevel=3,
    )
    return videos_lora().override(
        ["name=films-lora", "out=runs/films/lora", "task.data.folder=runs/films/curated"]
    )


def run_file(path: str | Path) -> Run | RunSequence:
    """A run from a YAML file, or several where it declares ``stages``: of one ``base``, or each a run of its own.

    Raises ConfigError.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or "stages" not in values:
        return Run.from_yaml(path)
    return StagedRun.from_yaml(path) if "base" in values else ChainedRun.from_yaml(path)


def run(config: Run | RunSequence) -> Path:
    """Train, in one stage or several; the folder of the result."""
    return train_in_order(config) if isinstance(config, RunSequence) else train(config)
