"""Progressive training: one file declares the stages, the runner goes through them and resumes in any of them.

Each stage is a run of its own in ``<out>/<number>-<name>``, started from the result of the one before; what came
from what stands in ``<out>/lineage.json`` with the SHA-256 of every result's weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from cogvideox.clip_folders.listing import list_clips
from cogvideox.config import Config
from cogvideox.data.clips import ClipSize, best_share
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files import read_json
from cogvideox.files.atomic import write_text
from cogvideox.files.digest import digests_of
from cogvideox.files.text import MOST_TABLE_BYTES
from cogvideox.training.config import TrainConfig, refuse_without_effect
from cogvideox.training.loop import train
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.sizes import SizeSetting
from cogvideox.transformer.position import PositionMode

OWN = {
    "base.steps": "steps", "base.optim.lr": "lr", "base.optim.warmup": "warmup",
    "base.task.accumulation": "accumulation",
    "base.task.data.size": "size", "base.task.data.budget": "budget", "base.task.data.images": "images",
    "base.task.data.best": "best",
}  # fmt: skip
"""Settings of a run that each stage has its own of, and their names there."""


class TrainingStage(Config):
    """A row of Table 5: what changes from stage to stage."""

    renamed_settings: ClassVar[dict[str, str]] = {"parts": "accumulation"}

    name: str = Field(min_length=1, pattern=r"^[\w-]+$", description="names the stage's folder")
    steps: int = Field(gt=0, description="optimiser steps")
    size: ClipSize = Field(description="resolution, duration and frame rate")
    lr: float = Field(gt=0, description="peak learning rate of adamw")
    muon_lr: float | None = Field(None, gt=0, description="peak rate of matrices under muon; null: as base")
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    accumulation: int = Field(1, gt=0, description="rows of a step (the batch size of Table 5)")
    budget: int = Field(25_000, gt=0, description="tokens of a row, text included")
    images: bool = Field(True, description="pictures take part, as clips of one frame")
    best: float = Field(1.0, gt=0, le=1, description="share of clips kept, by score; the paper ends at 0.2")
    rotary: PositionMode | None = Field(None, description="rotary coordinates from here on; null: as before")


class DiffusionRun(TrainConfig):
    """A run of the transformer; what a stage does not say is taken from here."""

    task: DiffusionTraining


class StagedRun(Config):
    """A whole progressive training."""

    base: DiffusionRun
    stages: tuple[TrainingStage, ...] = Field(min_length=1, description="in order")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"stages {', '.join(names)}: two have one name; name each differently")
        if self.base.task.data is None:
            raise ConfigError(
                "base.task.data: missing; stages differ in how they cut the clips of a folder, name it"
            )
        if self.base.task.lora is not None:
            raise ConfigError(
                "base.task.lora: each stage starts from the whole model of the one before, and an adapter's run writes "
                "an adapter alone; train it in one run after the stages"
            )
        if self.base.task.transformer is None and any(stage.rotary for stage in self.stages):
            raise ConfigError(
                "stages set rotary, base.task.transformer is null; give the transformer's settings"
            )
        return self

    def check_change(self, before: Self, names: Sequence[str]) -> None:
        """Raise ConfigError for a setting of the base that changes nothing, or that each stage has its own of."""
        refuse_without_effect(self.base.task, names, "base.task.")
        for name, own in OWN.items():
            old, new = (reduce(getattr, name.split("."), run) for run in (before, self))
            if old != new:
                raise ConfigError(f"{name}: every stage has its own; set stages.0.{own}, stages.1.{own}, ...")

    def run_of(self, number: int) -> DiffusionRun:
        """The run of one stage, counted from 0."""
        stage, task, optim = self.stages[number], self.base.task, self.base.optim
        assert task.data is not None, "checked when these settings were made"
        size = SizeSetting.of(stage.size)
        data = task.data.changed(size=size, budget=stage.budget, images=stage.images, best=stage.best)
        changes: dict[str, Any] = {"data": data, "accumulation": stage.accumulation}
        if number:
            changes["start"] = str(self.folder(number - 1) / "model")
        rotary = next((s.rotary for s in reversed(self.stages[: number + 1]) if s.rotary), None)
        if rotary:
            assert task.transformer is not None, "checked when these settings were made"
            changes["transformer"] = task.transformer.with_arm(position_mode=rotary)
        rates = {"lr": stage.lr, "warmup": stage.warmup, "muon_lr": stage.muon_lr or optim.muon_lr}
        return self.base.changed(
            name=f"{self.base.name}/{stage.name}",
            out=str(self.folder(number)),
            steps=stage.steps,
            task=task.changed(**changes),
            optim=optim.changed(**rates),
        )

    def folder(self, number: int) -> Path:
        """Where a stage's run is."""
        return Path(self.base.out) / f"{number + 1}-{self.stages[number].name}"


def train_stages(config: StagedRun) -> Path:
    """Go through the stages that are not done, and return the folder of the last result.

    Raises CheckpointError when a result that a later stage was started from has been changed since, and what ``train``
    raises.
    """
    file = Path(config.base.out) / "lineage.json"
    _check_scores(config)
    lineage: list[dict[str, Any]] = _read(file)
    result = Path(config.base.out)
    for number, stage in enumerate(config.stages):
        result = train(config.run_of(number))
        entry = {
            "stage": stage.name,
            "weights": digests_of(result),
            "start": lineage[number - 1]["weights"] if number else config.base.task.start,
        }
        if number < len(lineage) and lineage[number] != entry:
            raise CheckpointError(
                f"{result}: is not the result that stands in {file.name}; later stages were started from that one. "
                "Put it back, or choose another out="
            )
        if number >= len(lineage):
            lineage.append(entry)
            write_text(file, json.dumps(lineage, indent=1))
    return result


def _check_scores(config: StagedRun) -> None:
    """A stage of the best clips needs scores: asked for before the stages that come first. Raises ConfigError."""
    data = config.base.task.data
    shares = [stage.best for stage in config.stages if stage.best < 1]
    if data is not None and data.videos is None and shares:
        best_share(list_clips(data.folder, data.caption, data.source), min(shares))


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    try:
        values = read_json(file, most=MOST_TABLE_BYTES)
    except ConfigError as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove it, it is made again") from None
    return values if isinstance(values, list) else []
