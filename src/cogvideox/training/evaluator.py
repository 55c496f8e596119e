"""What the averaged weights are used for during a run and at its end: held-out figures, sample videos, the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from torch import nn

from cogvideox.errors import NumericsError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.shard import full_tensor, reshard
from cogvideox.progress import SILENT, TERMINAL
from cogvideox.training.optim import EMA
from cogvideox.training.task import Task


class Stopped(Exception):
    """Somebody asked to stop while held-out clips were measured or sample videos generated."""


class Evaluator:
    """Measures, samples and exports the network of a task, with its EMA weights where there are any. Every process of
    the run calls each method; they share the work."""

    def __init__(self, task: Task, ema: EMA | None, parallel: DataParallel, out: Path) -> None:
        self.task, self.ema, self.parallel, self.out = task, ema, parallel, out
        self.reporter = TERMINAL if parallel.is_main_process else SILENT
        self.figures: dict[str, float] | None = None
        """The held-out figures measured last."""
        self.stopping: Callable[[], bool] = lambda: False
        """Asked between clips; where it says yes, ``measure`` and ``save_samples`` raise Stopped."""

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module with its EMA weights, or as it is where there is no EMA."""
        with self.ema.applied() if self.ema is not None else nullcontext(self.task.module) as module:
            yield module
            reshard(module)

    def measure(self) -> dict[str, float]:
        """Held-out figures; the processes share the batches where the task has any, else the first measures alone."""
        self.figures = self._measure()
        return self.figures

    def _measure(self) -> dict[str, float]:
        task, parallel = self.task, self.parallel
        if not task.measure_batches:
            if not parallel.is_main_process:
                return {}
            with self.averaged() as module:
                return task.measure(module)
        measured, title = {}, "held-out clips"
        indices = parallel.local_indices(task.measure_batches)
        with self.averaged() as module, self.reporter.progress(title) as show:
            for done, index in enumerate(indices, start=1):
                self._go_on()
                measured[index] = task.measure_batch(module, index)
                show(title, done, len(indices))
        own = {index: values for index, values in measured.items() if parallel.owns(index)}
        return task.combine(parallel.gather_table(own, task.measure_batches, task.measure_width))

    def check_finite(self, step: int) -> None:
        """Raise NumericsError when a held-out figure of ``step`` is not finite; measures where none are known."""
        figures = self.measure() if self.figures is None else self.figures
        for name, value in figures.items():
            if not math.isfinite(value):
                raise NumericsError(
                    f"{self.out}: step {step}: {name} is {value}, so no model is written; the state is kept. "
                    "Lower the learning rate or set precision=fp32, and start in another out="
                )

    def _go_on(self) -> None:
        if self.stopping():
            raise Stopped

    def has_samples(self, step: int) -> bool:
        """Whether all sample videos of a step are written."""
        return all((self._samples(step) / f"{n}.mp4").is_file() for n in range(self.task.sample_videos))

    def _samples(self, step: int) -> Path:
        return self.out / "samples" / f"{step:08d}"

    def save_samples(self, step: int) -> None:
        """Write the sample videos to ``<out>/samples/<step>/``."""
        folder, title = self._samples(step), "sample videos"
        indices = self.parallel.local_indices(self.task.sample_videos)
        with self.averaged() as module, self.reporter.progress(title) as show:
            for done, index in enumerate(indices, start=1):
                self._go_on()
                video = self.task.sample_video(module, index)
                show(title, done, len(indices))
                if self.parallel.is_context_rank0 and self.parallel.owns(index):
                    folder.mkdir(parents=True, exist_ok=True)
                    video.save(folder / f"{index}.mp4", overwrite=True)

    def export(self, result: Path) -> None:
        """Write the result, on the first process; sharded weights are gathered first."""
        main = self.parallel.is_main_process
        if not self.parallel.sharded:
            if main:
                with self.averaged() as module:
                    self.task.export(module, result)
            return
        weights = {}
        with self.averaged() as module:
            for name, value in module.state_dict().items():
                gathered = full_tensor(value)
                if main:
                    weights[name] = gathered.cpu()
        if main:
            self.task.export(self.task.unsharded(weights), result)
