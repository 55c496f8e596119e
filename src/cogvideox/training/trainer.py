"""One run in memory: each step with gradient accumulation, and between steps what is measured, reported and saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.mesh import AXES
from cogvideox.parallel.shard import full_tensor, to_local
from cogvideox.training.checkpoint.saver import SampleLedger, Saver, TrainState
from cogvideox.training.config import TrainConfig
from cogvideox.training.evaluator import Evaluator, Stopped
from cogvideox.training.metrics import RunLog, Speed, known_peak, open_loggers
from cogvideox.training.optim import EMA, OptimConfig, build_optimizers, set_learning_rate
from cogvideox.training.step_guard import Guard
from cogvideox.training.task import Task


class Trainer:
    """A run in memory; ``fit`` trains. ``state``: the state to go on from, None at the beginning. ``data_facts``: what
    the task says about its data."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        state: dict[str, Any] | None = None,
        *,
        parallel: DataParallel | None = None,
        data_facts: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.task, self.out = config, task, Path(config.out)
        self.parallel = parallel or DataParallel(config.task.accumulation, config.reduce, config.mesh)
        self.moves = [(build_optimizers(task.module, config.optim), config.optim)]
        if task.critic is not None:
            own = config.critic or config.optim
            self.moves.append((build_optimizers(task.critic, own), own))
        self.optimizers = [each for optimizers, _ in self.moves for each in optimizers]
        self.ema = EMA(task.module, config.optim.ema) if config.optim.ema else None
        self.guard = Guard(config.guard)
        self.evaluator = Evaluator(task, self.ema, self.parallel, self.out)
        self.saver = Saver(self.out, self.parallel, config.background)
        self.state = TrainState(task, self.optimizers, self.ema, self.guard, data_facts, self.out)
        self.step = 0
        if state is not None:
            self.state.load_state_dict(state)
            self.step = int(state["step"])
        ledger_bytes = int((state or {}).get("ledger_bytes", 0))
        self.ledger = SampleLedger(self.out, ledger_bytes) if self.parallel.is_main_process else None

    def fit(self, last: int, on_step: Callable[[int], Any] | None = None) -> None:
        """Train until step ``last``; ``on_step`` is called with the number of each step that is done. Raises
        KeyboardInterrupt or SystemExit(143) after the step in which a stop signal came, its state saved."""
        log = self._open_log() if self.parallel.is_main_process else None
        speed = Speed(self._peak_flops())
        try:
            with stop_signals() as received:
                if self.parallel.world_size == 1:  # several stop together, between steps
                    self.evaluator.stopping = lambda: bool(received)
                self._evaluate(log, resumed=True)
                while self.step < last:
                    self._one_logged_step(log, speed, last)
                    # before it is measured, which may take longer than the steps
                    saved = self.step % self.config.save_every == 0 or self.step == last
                    if saved:
                        self.save()
                    self._evaluate(log)
                    # asked once: a signal after the save waits for the next step
                    stopping = self.parallel.any(bool(received))
                    if stopping and not saved:
                        self.save()
                    if self.step == last or stopping:
                        self.saver.wait()
                    self.saver.raise_if_failed()
                    if log:
                        log.advance(self.step)
                    if on_step is not None:
                        on_step(self.step)
                    if stopping:
                        self._stop(received)
                if self.parallel.any(bool(received)):  # since the last step was asked
                    self._stop(received)
        finally:
            self.saver.wait()
            if log:
                log.close()

    def one_step(self) -> dict[str, Tensor | float]:
        """One optimiser step: all micro-steps, then the weights move unless the guard forbids it; what it reports."""
        report = self._accumulate()
        norms = {"grad_norm": _clip(self.task.module, self.config.optim)}
        if self.task.critic is not None:
            norms["critic_grad_norm"] = _clip(self.task.critic, self.config.critic or self.config.optim)
        allowed = self.guard.allows(self.step, float(report["loss"]), float(sum(norms.values())))
        for optimizer in self.optimizers:
            if allowed:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if allowed and self.ema is not None:
            self.ema.update()
        return report | norms | ({"skipped": float(self.guard.skipped)} if self.guard.skipped else {})

    def _accumulate(self) -> dict[str, Tensor]:
        """Gradient accumulation: forward and backward of the micro-steps of a step, shared by the processes. Returns
        the mean of what all micro-steps report; the gradients are then those of the mean of their losses."""
        parallel, weights = self.parallel, self._weights_with_gradients()
        accumulation, device = parallel.accumulation, device_of(self.task)
        reports: dict[int, dict[str, Tensor]] = {}
        for index in range(accumulation):
            micro_step = self.step * accumulation + index
            if parallel.owns(index):
                # mixed precision: bfloat16 arithmetic on float32 weights
                with torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
                    losses = self.task.losses(micro_step)
                (losses["loss"] * parallel.loss_scale / accumulation).backward()
                reports[index] = {name: value.detach() for name, value in losses.items()}
            parallel.after_micro_step(index, weights)
            if self.ledger is not None:
                self.ledger.add(self.step, self.task.sample_names(micro_step))
        parallel.reduce_gradients(weights)
        mean: dict[str, Tensor] = {}
        for losses in parallel.gather_reports(reports):
            for name, value in losses.items():
                mean[name] = mean.get(name, 0) + value / accumulation
        return mean

    def _one_logged_step(self, log: RunLog | None, speed: Speed, last: int) -> None:
        for optimizers, optim in self.moves:
            set_learning_rate(optimizers, self.step, self.config.steps, optim)
        began = time.monotonic()
        report = self.one_step()
        speed.add(report, self.task.flops(self.step), time.monotonic() - began)
        self.step += 1
        if log and (self.step % self.config.log_every == 0 or self.step == last):
            lr = self.optimizers[0].param_groups[0]["lr"]
            log.write(self.step, {**report, "lr": lr, **speed.since()})

    def _evaluate(self, log: RunLog | None, resumed: bool = False) -> None:
        """Held-out figures and sample videos, when it is time for them; ``resumed``: those that a run which ended in
        the middle of them still lacks. A stop signal ends it early."""
        config, at_end = self.config, self.step == self.config.steps
        measure = self.step > 0 and (self.step % config.measure_every == 0 or at_end)
        every = config.sample_every
        sample = self.step > 0 and every is not None and (self.step % every == 0 or at_end)
        if resumed:
            measure = self.parallel.any(measure and log is not None and not log.measured)
            sample = self.parallel.any(sample and not self.evaluator.has_samples(self.step))
        with suppress(Stopped):
            if measure:
                figures = self.evaluator.measure()
                if log:
                    log.write(self.step, figures)
            if sample:
                self.evaluator.save_samples(self.step)

    def save(self) -> None:
        """Write ledger and state; the state says how much of the ledger belongs to it."""
        size = self.ledger.commit() if self.ledger is not None else 0
        if self.parallel.sharded or self.parallel.is_main_process:
            self.saver.save(self.step, {**self.state.state_dict(), "ledger_bytes": size})
        else:
            self.saver.save(self.step, {})

    def _stop(self, received: Sequence[int]) -> NoReturn:
        """End the process as the signal asks; the state is saved."""
        print(f"{self.out}: stopped at step {self.step}; the same command resumes", file=sys.stderr)
        if signal.SIGINT in received:
            raise KeyboardInterrupt
        raise SystemExit(PREEMPTED)

    def _open_log(self) -> RunLog:
        config = self.config
        settings = config.model_dump(mode="json")
        loggers = open_loggers(self.out, config.tensorboard, config.wandb, settings, self.step)
        print(self.summary(), file=sys.stderr)
        return RunLog(self.out, config.steps, self.step, config.name, loggers)

    def _peak_flops(self) -> float | None:
        """FLOPs a second that all processes could do at most, where it is known."""
        each = self.config.peak_tflops or known_peak(device_of(self.task), self.config.precision)
        return each * 1e12 * self.parallel.world_size if each else None

    def summary(self) -> str:
        """One line that says what is about to run: weights that move, memory, processes, device, precision, steps."""
        weights = list(self.task.module.parameters())
        trained = [p for p in weights if p.requires_grad]
        held = sum(to_local(p).nbytes for p in weights)
        held += sum(to_local(p).nbytes for p in trained) * (3 + bool(self.ema))
        kept = self.task.activation_bytes()
        activations = f" and about {kept / 2**20:.0f} MB between forward and back (float32)" if kept else ""
        world_size = self.parallel.world_size
        axes = zip(AXES, self.config.mesh.sizes(world_size), strict=True)
        mesh = " x ".join(f"{name} {count}" for name, count in axes)
        ranks = f"{world_size} processes ({mesh}), " if world_size > 1 else ""
        return (
            f"{self.config.name}: {sum(p.numel() for p in trained):,} of {sum(p.numel() for p in weights):,} weights "
            f"move, {self.task.describe()}{ranks}{held / 2**20:.0f} MB for weights, gradients, optimiser and "
            f"average{activations}, {device_of(self.task)}, {self.config.precision}, steps {self.step} to "
            f"{self.config.steps}"
        )

    def _weights_with_gradients(self) -> list[nn.Parameter]:
        """All weights that get gradients, in a fixed order."""
        critic = self.task.critic.parameters() if self.task.critic is not None else ()
        return [p for p in (*self.task.module.parameters(), *critic) if p.requires_grad]


def device_of(task: Task) -> str:
    """Kind of device that a task's network is on, such as ``cpu`` or ``cuda``."""
    return next(task.module.parameters()).device.type


def _clip(module: nn.Module, config: OptimConfig) -> Tensor:
    """Gradient clipping: scale gradients down to the largest norm allowed; returns the norm they had."""
    with_gradients = [p for p in module.parameters() if p.grad is not None]
    return full_tensor(torch.nn.utils.clip_grad_norm_(with_gradients, config.clip))


PREEMPTED = 143
"""Exit code after SIGTERM: the state was saved, and the same command resumes."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that the first SIGTERM or Ctrl-C is added to instead of ending the process; a second ends it at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # where somebody ignores a signal (SIGINT in the background of a shell) it stays ignored
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:  # not print: a handler may run within a write
            os.write(2, b"stopping after this step, with its state saved; Ctrl-C again stops at once\n")
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
