"""The loop: it moves weights, saves, resumes and reports, for any task.

Rerunning the same command resumes. Nothing random lives here, so a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny

from cogvideox.config import Config
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.atomic import sweep
from cogvideox.files.lock import folder_lock
from cogvideox.manifest import manifest, write_sidecar
from cogvideox.parallel.data_parallel import Adding, DataParallel
from cogvideox.parallel.mesh import MeshConfig, make_mesh
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.claim import claim, same_run
from cogvideox.training.metrics import check_boards
from cogvideox.training.optim import OptimConfig
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.task import TaskConfig
from cogvideox.training.tasks.folder import check_unchanged
from cogvideox.training.trainer import Trainer, device_of


class TrainConfig(Config):
    """A whole run."""

    name: str = Field(description="the recipe this run came from")
    task: SerializeAsAny[TaskConfig] = Field(description="what one step is")
    out: str = Field(description="folder of the run: config, metrics, states, result")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    seed: int = Field(0, ge=0, description="decides data order, noise and initial weights")
    optim: OptimConfig = OptimConfig()
    critic: OptimConfig | None = Field(None, description="how a task's critic moves; default: as optim")
    guard: GuardConfig = GuardConfig()
    adding: Adding = Field(
        "fast", description="gradients of several processes: fast, or exact to the last bit of one process"
    )
    mesh: MeshConfig = Field(
        MeshConfig(),
        description="how processes share the work: copies, parts of the weights, parts of a clip",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the forward pass; weights stay fp32"
    )
    save_every: int = Field(200, gt=0, description="steps between training states")
    background: bool = Field(
        False, description="write states while training goes on, for the price of a copy in memory"
    )
    log_every: int = Field(20, gt=0, description="steps between lines of metrics.jsonl")
    measure_every: int = Field(500, gt=0, description="steps between held-out measurements")
    sample_every: int | None = Field(
        None, gt=0, description="steps between sample videos in <out>/samples; null: none"
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="what a device can do at most, for model FLOP utilisation; null: known cards, else not told",
    )
    tensorboard: bool = Field(False, description="write <out>/tensorboard too")
    wandb: str | None = Field(None, description="project of Weights & Biases to report to as well")


def train(
    config: TrainConfig, stop_at: int | None = None, on_step: Callable[[int], Any] | None = None
) -> Path:
    """Run to the end (or to ``stop_at``) and return the folder of the result, ``<out>/model``.

    A run that is finished already is left as it is; only a result that is missing is written again. On SIGTERM or
    Ctrl-C the step is ended, the state saved and SystemExit(143) or KeyboardInterrupt raised.

    Raises ConfigError when ``out`` holds a run with other settings or one that is under way, when it lies inside the
    folder of clips, when that folder has changed, or when the mesh does not fit; DependencyError when a board is not
    installed, NumericsError when losses stay or the last figures are not finite, OutputError on every process when a
    state cannot be written by one.
    """
    config, out = config.changed(task=config.task.completed(fetch=True)), Path(config.out)
    config.task.check(out=out, precision=config.precision)
    check_boards(config.tensorboard, config.wandb)
    team = DataParallel(config.task.parts, config.adding, config.mesh)
    if team.in_parts:
        _check_parts(config)
    with ExitStack() as held:
        with team.first_goes_first():
            if team.is_first:
                held.enter_context(folder_lock(out))
                sweep(out)
            same_run(config, out)
            state, result = latest_state(out), out / "model"
            made = result / "training.json"  # written last
            finished = state is not None and int(state["step"]) >= config.steps and made.is_file()
        team.wait()  # nobody writes before everybody has read
        if finished:
            print(f"{out}: finished at step {config.steps} already; nothing to do", file=sys.stderr)
            return result
        with team.first_goes_first():  # it fills the caches
            task = config.task.build(config.seed, config.steps)
        _check_one_state(team, out, state)
        facts = task.data_facts()
        _check_same_data(config.task.data_folder or out.name, facts, state)
        if config.sample_every and not task.sample_videos:
            raise ConfigError(
                f"sample_every {config.sample_every}: a run of {config.task.kind} makes no videos; leave it out"
            )
        if team.in_parts:
            task.shard(make_mesh(config.mesh, device_of(task)))
        if team.is_first:  # only now: settings that cannot be built must not keep the folder for themselves
            claim(config, out)
        run = Trainer(config, task, state, team, facts)
        run.go(min(config.steps, stop_at or config.steps), on_step)
        if run.step >= config.steps:
            run.check_figures()
            run.export(result)
            if team.is_first:
                record = manifest("training run", config.model_dump(mode="json"), task.lineage(), config.seed)
                write_sidecar(made, record, overwrite=True)
        team.wait()
        return out if run.step < config.steps else result


def _check_parts(config: TrainConfig) -> None:
    """Raises ConfigError for an optimiser that cannot move weights in parts."""
    if config.optim.name != "adamw":
        raise ConfigError(
            f"optim.name {config.optim.name}: it turns whole matrices, and mesh shard {config.mesh.shard} x context "
            f"{config.mesh.context} lays them in parts; use adamw"
        )


def _check_one_state(team: DataParallel, out: Path, state: dict[str, Any] | None) -> None:
    """All processes must go on from the same step: a file that only one of them cannot read would part them."""
    step = -1.0 if state is None else float(state["step"])
    steps = {row[0] for row in team.table({team.group: [step]}, team.groups, 1)}
    if team.any(steps != {step}):
        raise CheckpointError(
            f"{out}: processes read different states (steps {sorted(steps)}); do all see this folder?"
        )


def _check_same_data(place: str, now: dict[str, Any] | None, state: dict[str, Any] | None) -> None:
    """A run goes on with the samples and the frozen networks it began with."""
    before = (state or {}).get("data")
    if before is not None and now is not None:
        check_unchanged(place, before, now)
