"""The loop: it moves weights, saves, resumes and reports, for any task.

Rerunning the same command resumes. Nothing random lives here, so a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from cogvideox.checkpoints.atomic import atomic_file
from cogvideox.config import Config
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.manifest import manifest, write_sidecar
from cogvideox.training.guard import Guard, GuardConfig
from cogvideox.training.ledger import Ledger, NamesSamples
from cogvideox.training.lock import run_lock
from cogvideox.training.log import RunLog, boards
from cogvideox.training.optim import (
    Average,
    OptimConfig,
    build_optimizers,
    learning_rate_factor,
    set_learning_rate,
)
from cogvideox.training.state import has_state, latest_state, save_state, sweep
from cogvideox.training.task import Describes, Task, parts_of
from cogvideox.training.team import Adding, Team

PREEMPTED = 143
"""Exit code after SIGTERM: the state was saved, and the same command resumes."""


class TrainConfig(Config):
    """A whole run."""

    name: str = Field(description="the recipe this run came from")
    task: SerializeAsAny[Config] = Field(description="what one step is")
    out: str = Field(description="folder of the run: config, metrics, states, result")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    seed: int = Field(0, ge=0, description="decides data order, noise and initial weights")
    optim: OptimConfig = OptimConfig()
    critic: OptimConfig | None = Field(None, description="how a task's critic moves; default: as optim")
    guard: GuardConfig = GuardConfig()
    adding: Adding = Field(
        "fast", description="gradients of several processes: fast, or exact to the last bit of one process"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the forward pass; weights stay fp32"
    )
    save_every: int = Field(200, gt=0, description="steps between training states")
    log_every: int = Field(20, gt=0, description="steps between lines of metrics.jsonl")
    measure_every: int = Field(500, gt=0, description="steps between held-out measurements")
    tensorboard: bool = Field(False, description="write <out>/tensorboard too")
    wandb: str | None = Field(None, description="project of Weights & Biases to report to as well")


def train(
    config: TrainConfig, stop_at: int | None = None, on_step: Callable[[int], Any] | None = None
) -> Path:
    """Run to the end (or to ``stop_at``) and return the folder of the result, ``<out>/model``.

    A run that is finished already is left as it is; only a result that is missing is written again. On SIGTERM the
    state is saved and SystemExit(143) raised. Raises ConfigError when ``out`` holds a run with other settings or one
    that is under way, NumericsError when losses stay not finite.
    """
    out = Path(config.out)
    team = Team(getattr(config.task, "parts", 1), config.adding)
    with run_lock(out) if team.is_first else nullcontext():
        with team.first_goes_first():
            if team.is_first:
                sweep(out)
            _same_run(config, out)
            state, result = latest_state(out), out / "model"
            made = result / "training.json"  # written last
            finished = state is not None and int(state["step"]) >= config.steps and made.is_file()
        team.wait()  # nobody writes before everybody has read
        if finished:
            print(f"{out}: finished at step {config.steps} already; nothing to do", file=sys.stderr)
            return result
        with team.first_goes_first():  # it fills the caches
            task: Task = config.task.build(config.seed)  # type: ignore[attr-defined]
        if team.is_first:  # only now: settings that cannot be built must not keep the folder for themselves
            _claim(config, out)
        team.calls = parts_of(task)
        run = _Run(config, task, state, team)
        run.go(min(config.steps, stop_at or config.steps), on_step)
        if run.step >= config.steps and team.is_first:
            with run.best() as module:
                task.export(module, result)
            lineage = task.lineage() if isinstance(task, Describes) else {}
            record = manifest("training run", config.model_dump(mode="json"), lineage, config.seed)
            write_sidecar(made, record, overwrite=True)
        team.wait()
        return out if run.step < config.steps else result


class _Run:
    """What a run has in memory, and how it goes to disk and back."""

    def __init__(
        self, config: TrainConfig, task: Task, state: dict[str, Any] | None, team: Team | None = None
    ) -> None:
        self.config, self.task, self.out = config, task, Path(config.out)
        self.team = team or Team(parts_of(task), config.adding)
        self.optimizers = build_optimizers(task.module, config.optim)
        if task.critic is not None:
            self.optimizers += build_optimizers(task.critic, config.critic or config.optim)
        self.average = Average(task.module, config.optim.ema) if config.optim.ema else None
        self.guard = Guard(config.guard)
        self.step = self._restore(state) if state is not None else 0
        size = int(state.get("ledger_bytes", 0)) if state is not None else 0
        self.ledger = Ledger(self.out, size) if self.team.is_first else None

    def go(self, last: int, on_step: Callable[[int], Any] | None) -> None:
        """Steps until ``last``."""
        config, log = self.config, self._log() if self.team.is_first else None
        tokens, began = 0.0, time.monotonic()
        try:
            with _term_is_noted() as term:
                while self.step < last:
                    factor = learning_rate_factor(self.step, config.steps, config.optim)
                    set_learning_rate(self.optimizers, factor)
                    report = self.one_step()
                    self.step += 1
                    tokens += float(report.get("tokens", 0))
                    if log and (self.step % config.log_every == 0 or self.step == last):
                        lr = self.optimizers[0].param_groups[0]["lr"]
                        speed = {"tokens_per_second": tokens / (time.monotonic() - began)} if tokens else {}
                        log.write(self.step, {**report, "lr": lr, **speed})
                        tokens, began = 0.0, time.monotonic()
                    if log and (self.step % config.measure_every == 0 or self.step == config.steps):
                        with self.best() as module:
                            log.write(self.step, self.task.measure(module))
                    # asked once: a signal after the save waits for the next step
                    stopping = self.team.any(bool(term))
                    if self.step % config.save_every == 0 or self.step == last or stopping:
                        self.save()
                    if log:
                        log.advance(self.step)
                    if on_step is not None:
                        on_step(self.step)
                    if stopping and self.step < config.steps:
                        print(
                            f"{self.out}: stopped at step {self.step}; the same command resumes",
                            file=sys.stderr,
                        )
                        raise SystemExit(PREEMPTED)
        finally:
            if log:
                log.close()

    def _log(self) -> RunLog:
        config = self.config
        board = boards(self.out, config.tensorboard, config.wandb, config.model_dump(mode="json"))
        log = RunLog(self.out, config.steps, self.step, config.name, board)
        print(self.summary(), file=sys.stderr)
        return log

    def one_step(self) -> dict[str, Tensor | float]:
        """Forward and backward over the parts of a step, then the optimisers, unless the guard says no."""
        config, parts, weights = self.config, self.team.calls, self._moved()
        mine: dict[int, dict[str, Tensor]] = {}
        for place in range(parts):
            call = self.step * parts + place
            if self.team.is_mine(place):
                with torch.autocast(
                    _device(self.task), dtype=torch.bfloat16, enabled=config.precision == "bf16"
                ):
                    losses = self.task.losses(call)
                (losses["loss"] / parts).backward()
                mine[place] = {name: value.detach() for name, value in losses.items()}
            self.team.after(place, weights)
            if isinstance(self.task, NamesSamples) and self.ledger is not None:
                self.ledger.add(self.step, self.task.samples(call))
        self.team.finish(weights)
        report: dict[str, Tensor] = {}
        for losses in self.team.merged(mine):
            for name, value in losses.items():
                report[name] = report.get(name, 0) + value / parts
        norms = {"grad_norm": _clip(self.task.module, config.optim)}
        if self.task.critic is not None:
            norms["critic_grad_norm"] = _clip(self.task.critic, config.critic or config.optim)
        allowed = self.guard.allows(self.step, float(report["loss"]), float(sum(norms.values())))
        for optimizer in self.optimizers:
            if allowed:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if allowed and self.average is not None:
            self.average.update()
        return report | norms | ({"skipped": float(self.guard.skipped)} if self.guard.skipped else {})

    @contextmanager
    def best(self) -> Iterator[nn.Module]:
        """The module with its averaged weights, where they are averaged."""
        with self.average.applied() if self.average is not None else nullcontext(self.task.module) as module:
            yield module

    def save(self) -> None:
        """Write ledger and state; the state says how much of the ledger belongs to it."""
        if self.ledger is not None:
            size = self.ledger.commit()
            save_state(self.out, self.step, {**self._state(), "ledger_bytes": size})

    def summary(self) -> str:
        """One line that says what is about to run."""
        weights = list(self.task.module.parameters())
        moved = [p for p in weights if p.requires_grad]
        held = sum(p.nbytes for p in weights) + sum(p.nbytes for p in moved) * (3 + bool(self.average))
        facts = self.task.describe() if isinstance(self.task, Describes) else ""
        return (
            f"{self.config.name}: {sum(p.numel() for p in moved):,} of {sum(p.numel() for p in weights):,} weights "
            f"move, {facts}{held / 2**20:.0f} MB for weights, gradients, optimiser and average, "
            f"{_device(self.task)}, {self.config.precision}, steps {self.step} to {self.config.steps}"
        )

    def _moved(self) -> list[nn.Parameter]:
        """All weights that get gradients, in a fixed order."""
        critic = self.task.critic.parameters() if self.task.critic is not None else ()
        return [p for p in (*self.task.module.parameters(), *critic) if p.requires_grad]

    def _state(self) -> dict[str, Any]:
        frozen = {name for name, p in self.task.module.named_parameters() if not p.requires_grad}
        weights = self.task.module.state_dict()
        return {
            "module": {name: value for name, value in weights.items() if name not in frozen},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.state() if self.average is not None else None,
            "critic": dict(self.task.critic.state_dict()) if self.task.critic is not None else None,
            "guard": self.guard.state(),
        }

    def _restore(self, state: dict[str, Any]) -> int:
        frozen = {name for name, p in self.task.module.named_parameters() if not p.requires_grad}
        missing, unknown = self.task.module.load_state_dict(state["module"], strict=False)
        if unknown or set(missing) - frozen:
            names = sorted({*unknown, *(set(missing) - frozen)})[:3]
            raise CheckpointError(
                f"{self.out}: its state is of another network: {', '.join(names)} do not match"
            )
        if self.task.critic is not None:
            self.task.critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.restore(state["average"])
        if "guard" in state:
            self.guard.restore(state["guard"])
        return int(state["step"])


def _device(task: Task) -> str:
    return next(task.module.parameters()).device.type


def _clip(module: nn.Module, config: OptimConfig) -> Tensor:
    """Scale gradients down to the largest norm allowed; the norm they had."""
    moved = [p for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(moved, config.clip)


@contextmanager
def _term_is_noted() -> Iterator[list[int]]:
    """Inside, the first SIGTERM is only noted, in the list; a second one ends the process at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def _same_run(config: TrainConfig, out: Path) -> None:
    """A folder with states belongs to one configuration; resuming it with another would mix two runs."""
    file, text = out / "run.yaml", config.to_yaml()
    if not has_state(out):
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
