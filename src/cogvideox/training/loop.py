"""The loop: ``train`` trains any task, saves, resumes and reports.

Rerunning the same command resumes. Nothing random lives here, so a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.atomic import sweep
from cogvideox.files.lock import folder_lock
from cogvideox.manifest import manifest, write_sidecar
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.mesh import make_mesh
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.config import TrainConfig
from cogvideox.training.metrics import check_loggers
from cogvideox.training.resume import RECORD, check_same_config, write_config
from cogvideox.training.tasks.folder import check_unchanged
from cogvideox.training.trainer import Trainer, device_of


def train(
    config: TrainConfig, stop_at: int | None = None, on_step: Callable[[int], Any] | None = None
) -> Path:
    """Run to the end (or to ``stop_at``) and return the folder of the result, ``<out>/model``.

    A run that is finished already is left as it is; only a result that is missing is written again. On SIGTERM or
    Ctrl-C the step is ended, the state saved and SystemExit(143) or KeyboardInterrupt raised.

    Raises ConfigError when ``out`` holds a run with other settings or one that is under way, when it lies inside the
    folder of clips, when that folder has changed, or when the mesh does not fit; DependencyError when a logger is not
    installed, NumericsError when losses stay or the last figures are not finite, OutputError on every process when a
    state cannot be written by one.
    """
    config, out = config.changed(task=config.task.completed(fetch=True)), Path(config.out)
    config.task.check(out=out, precision=config.precision)
    check_loggers(config.tensorboard, config.wandb)
    parallel = DataParallel(config.task.accumulation, config.reduce, config.mesh)
    if parallel.sharded:
        _check_shards(config)
    result = out / "model"
    with ExitStack() as held:
        with parallel.main_process_first():
            if parallel.is_main_process:
                held.enter_context(folder_lock(out))
                sweep(out)
            check_same_config(config, out)
            state = latest_state(out)
            at_end = state is not None and int(state["step"]) >= config.steps
            finished = at_end and (result / RECORD).is_file()
        parallel.barrier()  # nobody writes before everybody has read
        if finished:
            print(f"{out}: finished at step {config.steps} already; nothing to do", file=sys.stderr)
            return result
        trainer = _build(config, state, parallel)
        trainer.fit(min(config.steps, stop_at or config.steps), on_step)
        if trainer.step >= config.steps:
            _write_result(trainer, result)
        parallel.barrier()
        return out if trainer.step < config.steps else result


def _build(config: TrainConfig, state: dict[str, Any] | None, parallel: DataParallel) -> Trainer:
    """The task and its trainer, at ``state``, with which the task's data must agree; the folder gets its settings."""
    with parallel.main_process_first():  # it fills the caches
        task = config.task.build(config.seed, config.steps)
    data_facts = task.data_facts()
    _check_same_state(parallel, Path(config.out), state)
    _check_same_data(config, data_facts, state)
    if config.sample_every and not task.sample_videos:
        raise ConfigError(
            f"sample_every {config.sample_every}: a run of {config.task.kind} makes no videos; leave it out"
        )
    if parallel.sharded:
        task.shard(make_mesh(config.mesh, device_of(task)))
    if parallel.is_main_process:  # only now: settings that cannot be built must not keep the folder
        write_config(config)
    return Trainer(config, task, state, parallel=parallel, data_facts=data_facts)


def _write_result(trainer: Trainer, result: Path) -> None:
    """Write the model and, last, the record of what it was made from. Raises NumericsError."""
    trainer.evaluator.check_finite(trainer.step)
    trainer.evaluator.export(result)
    if trainer.parallel.is_main_process:
        config = trainer.config
        settings = config.model_dump(mode="json")
        record = manifest("training run", settings, trainer.task.lineage(), config.seed)
        write_sidecar(result / RECORD, record, overwrite=True)


def _check_shards(config: TrainConfig) -> None:
    """Raise ConfigError for an optimiser that cannot move sharded weights, and for a second network beside them."""
    shards = f"mesh shard {config.mesh.shard} x context {config.mesh.context}"
    if config.task.has_critic:
        raise ConfigError(
            f"{shards}: this run of {config.task.kind} trains a critic too, which is not sharded; use mesh.data"
        )
    if config.optim.name != "adamw":
        raise ConfigError(
            f"optim.name {config.optim.name}: it needs whole matrices, and {shards} shards them; use adamw"
        )


def _check_same_state(parallel: DataParallel, out: Path, state: dict[str, Any] | None) -> None:
    """All processes must go on from the same step: with a file that only one cannot read they would differ."""
    step = -1.0 if state is None else float(state["step"])
    table = parallel.gather_table({parallel.dp_rank: [step]}, parallel.dp_size, 1)
    steps = {numbers[0] for numbers in table}
    if parallel.any(steps != {step}):
        raise CheckpointError(
            f"{out}: processes read different states (steps {sorted(steps)}); do all see this folder?"
        )


def _check_same_data(config: TrainConfig, now: dict[str, Any] | None, state: dict[str, Any] | None) -> None:
    """Raise ConfigError when the samples or the frozen networks are not those that the run began with."""
    before = (state or {}).get("data")
    if before is not None and now is not None:
        check_unchanged(config.task.data_folder or Path(config.out).name, before, now)
