"""One run in memory: its steps, what it looks at on the way, and how it goes to disk and back."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from cogvideox.errors import CheckpointError, NumericsError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.dtensor import local, mine, optimizer_state
from cogvideox.parallel.mesh import AXES
from cogvideox.parallel.shard import gathered_again, whole
from cogvideox.training.checkpoint.sample_ledger import SampleLedger
from cogvideox.training.checkpoint.saver import Saver
from cogvideox.training.claim import PREEMPTED, stop_is_noted
from cogvideox.training.metrics import RunLog, Speed, boards, known_peak
from cogvideox.training.optim import (
    EMA,
    OptimConfig,
    build_optimizers,
    learning_rate_factor,
    set_learning_rate,
)
from cogvideox.training.step_guard import Guard
from cogvideox.training.task import Task

if TYPE_CHECKING:
    from cogvideox.training.loop import TrainConfig


class Trainer:
    """A run in memory; ``go`` moves it."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        state: dict[str, Any] | None,
        team: DataParallel | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.task, self.out = config, task, Path(config.out)
        self.team = team or DataParallel(config.task.parts, config.adding, config.mesh)
        self.saver = Saver(self.out, self.team, config.background)
        self.optimizers = build_optimizers(task.module, config.optim)
        if task.critic is not None:
            self.optimizers += build_optimizers(task.critic, config.critic or config.optim)
        self.average = EMA(task.module, config.optim.ema) if config.optim.ema else None
        self.guard = Guard(config.guard)
        self.figures: dict[str, float] | None = None  # measured last
        self.facts = facts  # about the data of the task, kept in every state
        self.step = self._restore(state) if state is not None else 0
        size = int(state.get("ledger_bytes", 0)) if state is not None else 0
        self.ledger = SampleLedger(self.out, size) if self.team.is_first else None

    def go(self, last: int, on_step: Callable[[int], Any] | None) -> None:
        """Steps until ``last``."""
        config, log = self.config, self._log() if self.team.is_first else None
        speed = Speed(self._peak())
        try:
            with stop_is_noted() as noted:
                while self.step < last:
                    factor = learning_rate_factor(self.step, config.steps, config.optim)
                    set_learning_rate(self.optimizers, factor)
                    began = time.monotonic()
                    report = self.one_step()
                    speed.add(report, self.task.flops(self.step), time.monotonic() - began)
                    self.step += 1
                    if log and (self.step % config.log_every == 0 or self.step == last):
                        lr = self.optimizers[0].param_groups[0]["lr"]
                        log.write(self.step, {**report, "lr": lr, **speed.since()})
                    self._look(log)
                    # asked once: a signal after the save waits for the next step
                    stopping = self.team.any(bool(noted))
                    if self.step % config.save_every == 0 or self.step == last or stopping:
                        self.save()
                    if self.step == last or stopping:
                        self.saver.wait()
                    self.saver.check()
                    if log:
                        log.advance(self.step)
                    if on_step is not None:
                        on_step(self.step)
                    if stopping:
                        self._stop(noted)
                if self.team.any(bool(noted)):  # since the last step was asked
                    self._stop(noted)
        finally:
            self.saver.wait()
            if log:
                log.close()

    def _stop(self, noted: Sequence[int]) -> NoReturn:
        """End the process as the signal asks; the state is saved."""
        print(f"{self.out}: stopped at step {self.step}; the same command resumes", file=sys.stderr)
        if signal.SIGINT in noted:
            raise KeyboardInterrupt
        raise SystemExit(PREEMPTED)

    def _look(self, log: RunLog | None) -> None:
        """Held-out figures and sample videos, when it is time for them."""
        config, last = self.config, self.step == self.config.steps
        if self.step % config.measure_every == 0 or last:
            self.figures = self.measure(log)
            if log:
                log.write(self.step, self.figures)
        if config.sample_every and (self.step % config.sample_every == 0 or last):
            self.show(log)

    def measure(self, log: RunLog | None = None) -> dict[str, float]:
        """Held-out figures of the averaged weights; the processes share the batches where the task has any."""
        task, team = self.task, self.team
        if not task.measure_batches:
            if not team.is_first:
                return {}
            with self.best() as module:
                return task.measure(module)
        with self.best() as module:
            found = {}
            batches = team.turns(task.measure_batches)
            with stage(log, "held-out clips", len(batches)) as done:
                for index in batches:
                    found[index] = task.measure_batch(module, index)
                    done()
        known = {index: values for index, values in found.items() if team.is_mine(index)}
        return task.combine(team.table(known, task.measure_batches, task.measure_width))

    def check_figures(self) -> None:
        """Raises NumericsError when a last held-out figure is not finite; a run at its end already measures again."""
        if self.figures is None:
            self.figures = self.measure()
        for name, value in self.figures.items():
            if not math.isfinite(value):
                raise NumericsError(
                    f"{self.out}: step {self.step}: {name} is {value}, so no model is written; the state is kept. "
                    "Lower the learning rate or set precision=fp32, and start in another out="
                )

    def show(self, log: RunLog | None = None) -> None:
        """Sample videos of the averaged weights in ``<out>/samples/<step>/``, spread over the processes."""
        task, team = self.task, self.team
        folder = self.out / "samples" / f"{self.step:08d}"
        numbers = team.turns(task.sample_videos)
        with self.best() as module, stage(log, "sample videos", len(numbers)) as done:
            for number in numbers:
                video = task.sample_video(module, number)
                done()
                if team.leads and team.is_mine(number):
                    folder.mkdir(parents=True, exist_ok=True)
                    video.save(folder / f"{number}.mp4", overwrite=True)

    def export(self, result: Path) -> None:
        """The result, written by the first process; weights in parts are put together first."""
        if not self.team.in_parts:
            if self.team.is_first:
                with self.best() as module:
                    self.task.export(module, result)
            return
        weights = {}
        with self.best() as module:
            for name, value in module.state_dict().items():
                all_of_it = whole(value)
                if self.team.is_first:
                    weights[name] = all_of_it.cpu()
        if self.team.is_first:
            self.task.export(self.task.unsharded(weights), result)

    def _peak(self) -> float | None:
        """FLOPs a second that all processes could do at most, where it is known."""
        each = self.config.peak_tflops or known_peak(device_of(self.task), self.config.precision)
        return each * 1e12 * self.team.size if each else None

    def _log(self) -> RunLog:
        config = self.config
        board = boards(self.out, config.tensorboard, config.wandb, config.model_dump(mode="json"), self.step)
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
                    device_of(self.task), dtype=torch.bfloat16, enabled=config.precision == "bf16"
                ):
                    losses = self.task.losses(call)
                (losses["loss"] * self.team.share / parts).backward()
                mine[place] = {name: value.detach() for name, value in losses.items()}
            self.team.after(place, weights)
            if self.ledger is not None:
                self.ledger.add(self.step, self.task.sample_names(call))
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
            gathered_again(module)

    def save(self) -> None:
        """Write ledger and state; the state says how much of the ledger belongs to it."""
        size = self.ledger.commit() if self.ledger is not None else 0
        if self.team.in_parts or self.team.is_first:
            self.saver.save(self.step, {**self._state(), "ledger_bytes": size})
        else:
            self.saver.save(self.step, {})

    def summary(self) -> str:
        """One line that says what is about to run."""
        weights = list(self.task.module.parameters())
        moved = [p for p in weights if p.requires_grad]
        mine = sum(local(p).nbytes for p in weights)
        mine += sum(local(p).nbytes for p in moved) * (3 + bool(self.average))
        kept = self.task.activation_bytes()
        room = f" and about {kept / 2**20:.0f} MB between forward and back (float32)" if kept else ""
        axes = zip(AXES, self.config.mesh.sizes(self.team.size), strict=True)
        mesh = " x ".join(f"{name} {count}" for name, count in axes)
        ranks = f"{self.team.size} processes ({mesh}), " if self.team.size > 1 else ""
        return (
            f"{self.config.name}: {sum(p.numel() for p in moved):,} of {sum(p.numel() for p in weights):,} weights "
            f"move, {self.task.describe()}{ranks}{mine / 2**20:.0f} MB for weights, gradients, optimiser and "
            f"average{room}, "
            f"{device_of(self.task)}, {self.config.precision}, steps {self.step} to {self.config.steps}"
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
            **({"data": self.facts} if self.facts is not None else {}),
        }

    def _restore(self, state: dict[str, Any]) -> int:
        self._restore_weights(state["module"])
        if self.task.critic is not None:
            self.task.critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state(saved, optimizer))
        if self.average is not None:
            self.average.restore(state["average"])
        if "guard" in state:
            self.guard.restore(state["guard"])
        return int(state["step"])

    @torch.no_grad()
    def _restore_weights(self, saved: dict[str, Any]) -> None:
        module = self.task.module
        frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
        own = {name: value for name, value in module.state_dict().items() if name not in frozen}
        if own.keys() != saved.keys() - frozen:
            names = ", ".join(sorted(own.keys() ^ (saved.keys() - frozen))[:3])
            raise CheckpointError(f"{self.out}: its state is of another network: {names} do not match")
        for name, value in own.items():
            if value.shape != saved[name].shape:
                raise CheckpointError(
                    f"{self.out}: its state is of another network: {name} is {tuple(saved[name].shape)} there and "
                    f"{tuple(value.shape)} here"
                )
            local(value).copy_(mine(saved[name], value))


def stage(log: RunLog | None, title: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """A bar of its own for what lasts between two steps; nothing where nobody reports."""
    return log.stage(title, total) if log is not None else nullcontext(lambda: None)


def device_of(task: Task) -> str:
    """Kind of device that a task's network is on."""
    return next(task.module.parameters()).device.type


def _clip(module: nn.Module, config: OptimConfig) -> Tensor:
    """Scale gradients down to the largest norm allowed; the norm they had."""
    moved = [p for p in module.parameters() if p.grad is not None]
    return whole(torch.nn.utils.clip_grad_norm_(moved, config.clip))
