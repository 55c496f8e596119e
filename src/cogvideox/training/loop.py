"""The loop: it moves weights, saves, resumes and reports, for any task.

Rerunning the same command resumes. Nothing random lives here, so a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, SerializeAsAny

from cogvideox.checkpoints.atomic import atomic_file
from cogvideox.config import Config
from cogvideox.errors import ConfigError, NumericsError
from cogvideox.manifest import manifest, write_sidecar
from cogvideox.training.log import RunLog
from cogvideox.training.optim import (
    OptimConfig,
    averaged,
    build_optimizers,
    learning_rate_factor,
    set_learning_rate,
)
from cogvideox.training.state import latest_state, save_state
from cogvideox.training.task import Task


class TrainConfig(Config):
    """A whole run."""

    name: str = Field(description="the recipe this run came from")
    task: SerializeAsAny[Config] = Field(description="what one step is")
    out: str = Field(description="folder of the run: config, metrics, states, result")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    seed: int = Field(0, ge=0, description="decides data order, noise and initial weights")
    optim: OptimConfig = OptimConfig()
    critic: OptimConfig | None = Field(None, description="how a task's critic moves; default: as optim")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the forward pass; weights stay fp32"
    )
    save_every: int = Field(200, gt=0, description="steps between training states")
    log_every: int = Field(20, gt=0, description="steps between lines of metrics.jsonl")
    measure_every: int = Field(500, gt=0, description="steps between held-out measurements")


def train(
    config: TrainConfig, stop_at: int | None = None, on_step: Callable[[int], Any] | None = None
) -> Path:
    """Run to the end (or to ``stop_at``) and return the folder of the result, ``<out>/model``.

    A run that is finished already is left as it is; only a result that is missing is written again. Raises
    ConfigError when ``out`` holds a run with other settings, NumericsError when the loss is not finite.
    """
    out = Path(config.out)
    _same_run(config, out)
    state, result = latest_state(out), out / "model"
    made = result / "training.json"  # written last
    if state is not None and int(state["step"]) >= config.steps and made.is_file():
        print(f"{out}: finished at step {config.steps} already; nothing to do", file=sys.stderr)
        return result
    task: Task = config.task.build(config.seed)  # type: ignore[attr-defined]
    _claim(config, out)  # only now: settings that cannot be built must not keep the folder for themselves
    optimizers = build_optimizers(task.module, config.optim)
    if task.critic is not None:
        optimizers += build_optimizers(task.critic, config.critic or config.optim)
    average = averaged(task.module, config.optim.ema) if config.optim.ema else None
    step = _restore(state, task, optimizers, average)
    log = RunLog(out, config.steps, step, config.name)
    last = min(config.steps, stop_at or config.steps)
    try:
        while step < last:
            set_learning_rate(optimizers, learning_rate_factor(step, config.steps, config.optim))
            report = _step(task, step, optimizers, config)
            if average is not None:
                average.update_parameters(task.module)
            step += 1
            if step % config.log_every == 0 or step == last:
                log.write(step, {**report, "lr": optimizers[0].param_groups[0]["lr"]})
            if step % config.measure_every == 0 or step == config.steps:
                log.write(step, task.measure(_best(task, average)))
            if step % config.save_every == 0 or step == last:
                save_state(out, step, _state(task, optimizers, average))
            log.advance(step)
            if on_step is not None:
                on_step(step)
    finally:
        log.close()
    if step < config.steps:
        return out
    task.export(_best(task, average), result)
    record = manifest("training run", config=config.model_dump(mode="json"), inputs={}, seed=config.seed)
    write_sidecar(made, record, overwrite=True)
    return result


def _step(task: Task, step: int, optimizers: list, config: TrainConfig) -> dict[str, torch.Tensor]:
    bf16 = config.precision == "bf16"
    device = next(task.module.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        losses = task.losses(step)
    if not torch.isfinite(losses["loss"]):
        raise NumericsError(
            f"step {step}: the loss is {losses['loss'].item()}; lower the learning rate or use fp32"
        )
    losses["loss"].backward()
    norms = {"grad_norm": _clip(task.module, config.optim)}
    if task.critic is not None:
        norms["critic_grad_norm"] = _clip(task.critic, config.critic or config.optim)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: value.detach() for name, value in losses.items()} | norms


def _clip(module: torch.nn.Module, config: OptimConfig) -> torch.Tensor:
    """Scale gradients down to the largest norm allowed; the norm they had."""
    moved = [p for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(moved, config.clip)


def _best(task: Task, average) -> torch.nn.Module:
    return average.module if average is not None else task.module


def _state(task: Task, optimizers: list, average) -> dict[str, Any]:
    return {
        "module": task.module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.state_dict() if average is not None else None,
        "critic": task.critic.state_dict() if task.critic is not None else None,
    }


def _restore(state: dict[str, Any] | None, task: Task, optimizers: list, average) -> int:
    if state is None:
        return 0
    task.module.load_state_dict(state["module"])
    if task.critic is not None:
        task.critic.load_state_dict(state["critic"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if average is not None:
        average.load_state_dict(state["average"])
    return int(state["step"])


def _same_run(config: TrainConfig, out: Path) -> None:
    """A folder with states belongs to one configuration; resuming it with another would mix two runs."""
    file, text = out / "run.yaml", config.to_yaml()
    if not any(out.glob("state-*.pt")):
        return
    if file.exists() and (old := file.read_text(encoding="utf-8")) != text and not _means(file, config):
        before, now = old.splitlines(), text.splitlines()
        changed = next(
            (f"{b.strip()} -> {n.strip()}" for b, n in zip(before, now, strict=False) if b != n), "its length"
        )
        raise ConfigError(
            f"{file}: holds a run with other settings ({changed}); choose another out= or remove it"
        )


def _means(file: Path, config: TrainConfig) -> bool:
    """Whether an older file says the same: settings that are new since then have their defaults."""
    try:
        return type(config).from_yaml(file) == config
    except ConfigError:
        return False


def _claim(config: TrainConfig, out: Path) -> None:
    """Write what is about to run."""
    with atomic_file(out / "run.yaml", overwrite=True) as work:
        work.write_text(config.to_yaml(), encoding="utf-8")
