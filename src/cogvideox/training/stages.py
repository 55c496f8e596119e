"""Progressive training: one file declares the stages, the runner goes through them and resumes in any of them.

Each stage is a run of its own in ``<out>/<number>-<name>``, started from the result of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from cogvideox.clip_folders.listing import list_clips
from cogvideox.config import Config
from cogvideox.data.clips import ClipSize, best_share
from cogvideox.errors import ConfigError
from cogvideox.training.config import TrainConfig, refuse_without_effect
from cogvideox.training.sequence import RunSequence
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


class StagedRun(RunSequence):
    """A whole progressive training."""

    out_setting: ClassVar[str] = "base.out"

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
            changes["start"] = str(self.stage_folder(number - 1) / "model")
        rotary = next((s.rotary for s in reversed(self.stages[: number + 1]) if s.rotary), None)
        if rotary:
            assert task.transformer is not None, "checked when these settings were made"
            changes["transformer"] = task.transformer.with_arm(position_mode=rotary)
        rates = {"lr": stage.lr, "warmup": stage.warmup, "muon_lr": stage.muon_lr or optim.muon_lr}
        return self.base.changed(
            name=f"{self.base.name}/{stage.name}",
            out=str(self.stage_folder(number)),
            steps=stage.steps,
            task=task.changed(**changes),
            optim=optim.changed(**rates),
        )

    @property
    def folder(self) -> Path:
        return Path(self.base.out)

    def stage_folder(self, number: int) -> Path:
        """Where a stage's run is."""
        return self.folder / f"{number + 1}-{self.stages[number].name}"

    def named_runs(self) -> list[tuple[str, TrainConfig]]:
        return [(stage.name, self.run_of(number)) for number, stage in enumerate(self.stages)]

    def runs_to_encode(self) -> Iterator[TrainConfig]:
        start = self.base.task.start
        for number, (_, run) in enumerate(self.named_runs()):
            # later ones start from a model that is not there yet, coded alike
            yield run.changed(task=run.task.changed(start=start)) if number else run

    def started_from(self, number: int, lineage: Sequence[dict[str, Any]]) -> Any:
        return lineage[number - 1]["weights"] if number else self.base.task.start

    def check_before(self) -> None:
        """A stage of the best clips needs scores: asked for before the stages that come first. Raises ConfigError."""
        data = self.base.task.data
        shares = [stage.best for stage in self.stages if stage.best < 1]
        if data is not None and data.videos is None and shares:
            best_share(list_clips(data.folder, data.caption, data.source), min(shares))
