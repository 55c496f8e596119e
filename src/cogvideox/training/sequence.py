"""Several runs one after the other, each in a folder of its own; the runner resumes in any of them.

What came from what stands in ``<out>/lineage.json`` with the SHA-256 of every result's weights.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from cogvideox.checkpoints.hub import find_folder
from cogvideox.config import Config
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files import read_json
from cogvideox.files.atomic import write_text
from cogvideox.files.digest import digests_of
from cogvideox.files.text import MOST_TABLE_BYTES
from cogvideox.training.config import Run, TrainConfig
from cogvideox.training.loop import train


class RunSequence(Config, ABC):
    """Runs that are trained in order; some start from results of earlier ones."""

    out_setting: ClassVar[str] = "out"
    """The setting that names the folder of all."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of all runs."""

    @abstractmethod
    def named_runs(self) -> Sequence[tuple[str, TrainConfig]]:
        """Each run with its short name, in order."""

    @abstractmethod
    def runs_to_encode(self) -> Iterator[TrainConfig]:
        """The runs whose clips can be encoded before any is trained. Raises ConfigError when there are none."""

    @abstractmethod
    def started_from(self, number: int, lineage: Sequence[dict[str, Any]]) -> Any:
        """What the lineage says of the start of run ``number``."""

    def check_before(self) -> None:
        """Raise ConfigError for what a later run would stop for, where it is known before the first."""


def train_in_order(config: RunSequence) -> Path:
    """Go through the runs that are not done, and return the folder of the last result.

    Raises CheckpointError when a result that a later run was started from has been changed since, and what ``train``
    raises.
    """
    file = config.folder / "lineage.json"
    config.check_before()
    lineage: list[dict[str, Any]] = _read(file)
    result = config.folder
    for number, (name, run) in enumerate(config.named_runs()):
        result = train(run)
        entry = {"stage": name, "weights": digests_of(result), "start": config.started_from(number, lineage)}
        if number < len(lineage) and lineage[number] != entry:
            raise CheckpointError(
                f"{result}: is not the result that stands in {file.name}; later stages were started from that one. "
                "Put it back, or choose another out="
            )
        if number >= len(lineage):
            lineage.append(entry)
            write_text(file, json.dumps(lineage, indent=1))
    return result


class ChainStage(Config):
    """One run of a chain."""

    name: str = Field(min_length=1, pattern=r"^[\w-]+$", description="names the run's folder")
    run: Run = Field(description="its settings")
    reads: dict[str, str] = Field(
        {}, description="settings of the run that name results of earlier ones: setting -> name of that run"
    )


class ChainedRun(RunSequence):
    """Runs of different tasks that build on one another: an autoencoder, a text encoder, transformers."""

    name: str = Field(description="the recipe this chain came from")
    out: str = Field(description="folder of all runs")
    stages: tuple[ChainStage, ...] = Field(min_length=1, description="in order")

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def named_runs(self) -> list[tuple[str, TrainConfig]]:
        """Raises ConfigError for names that are there twice, and for a run that reads one that is not before it."""
        folders: dict[str, Path] = {}
        runs: list[tuple[str, TrainConfig]] = []
        for number, stage in enumerate(self.stages):
            if stage.name in folders:
                raise ConfigError(f"stages: two are called {stage.name}; name each differently")
            for setting, other in stage.reads.items():
                if other not in folders:
                    raise ConfigError(
                        f"stages.{number}.reads.{setting} {other!r}: no run of that name before {stage.name}; there "
                        f"are {', '.join(folders) or 'none'}"
                    )
            own = self.folder / f"{number + 1}-{stage.name}"
            read = [f"{setting}={folders[other] / 'model'}" for setting, other in stage.reads.items()]
            runs.append(
                (stage.name, stage.run.override([f"name={self.name}/{stage.name}", f"out={own}", *read]))
            )
            folders[stage.name] = own
        return runs

    def check_change(self, before: Self, names: Sequence[str]) -> None:
        """Raise ConfigError for a setting of a run that changes nothing, or that the chain itself decides."""
        inside: dict[int, list[str]] = {}
        for name in names:
            path = name.split(".")
            if path[0] == "stages" and len(path) > 3 and path[2] == "run":
                inside.setdefault(int(path[1]), []).append(".".join(path[3:]))
        for number, changed in inside.items():
            stage, prefix = self.stages[number], f"stages.{number}.run"
            for name in changed:
                if name in ("name", "out"):
                    raise ConfigError(
                        f"{prefix}.{name}: a chain names its runs; set out, or stages.{number}.name"
                    )
                if name in stage.reads:
                    raise ConfigError(
                        f"{prefix}.{name}: is the result of the run {stage.reads[name]}; to take another, set "
                        f'"stages.{number}.reads={{}}" as well'
                    )
            try:
                stage.run.check_change(before.stages[number].run, changed)
            except ConfigError as error:
                raise ConfigError(f"{prefix}.{error}") from None

    def runs_to_encode(self) -> Iterator[TrainConfig]:
        raise ConfigError(
            f"{self.name}: its autoencoder is trained first, so nothing can be encoded before; each run encodes what "
            "it reads"
        )

    def started_from(self, number: int, lineage: Sequence[dict[str, Any]]) -> Any:
        weights = {entry["stage"]: entry["weights"] for entry in lineage}
        stage = self.stages[number]
        outside = getattr(stage.run.task, "start", None) if "task.start" not in stage.reads else None
        first = {outside: digests_of(find_folder(outside))} if outside is not None else {}
        return first | {name: weights[name] for name in stage.reads.values()}


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    try:
        values = read_json(file, most=MOST_TABLE_BYTES)
    except ConfigError as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove it, it is made again") from None
    return values if isinstance(values, list) else []
