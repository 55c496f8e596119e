"""What a run reports: lines of metrics.jsonl, a progress bar with the time left on stderr, and loggers where wanted."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cogvideox.device import PEAKS, card_here
from cogvideox.errors import DependencyError, OutputError
from cogvideox.files import parse_json, read_small_bytes
from cogvideox.files.atomic import write_text
from cogvideox.progress import progress, say

Logger = Callable[[int, dict[str, float]], None]
"""Reports the numbers of one step to TensorBoard or Weights & Biases."""


def open_loggers(
    folder: Path, tensorboard: bool, wandb: str | None, config: dict[str, Any], start: int
) -> list[Logger]:
    """The loggers a run asks for, from after step ``start``; their libraries are there (``check_loggers``)."""
    loggers = []
    if tensorboard:
        loggers.append(_tensorboard(folder, start))
    if wandb is not None:
        loggers.append(_wandb(folder, wandb, config))
    return loggers


def check_loggers(tensorboard: bool, wandb: str | None) -> None:
    """Raises DependencyError when a library is missing: before the work of a run, not after."""
    for wanted, library, extra in (
        (tensorboard, "tensorboard", "train"),
        (wandb is not None, "wandb", "track"),
    ):
        spec = find_spec(library) if wanted else None
        if wanted and (spec is None or spec.origin is None):  # a folder of that name is no library
            raise DependencyError(
                f"{library}: not installed; pip install 'cogvideox[{extra}]', or leave it off"
            )


def _tensorboard(folder: Path, start: int) -> Logger:
    from torch.utils.tensorboard import SummaryWriter

    # steps after ``start`` that stand there already are of a run that died
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def show(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return show


def _wandb(folder: Path, project: str, config: dict[str, Any]) -> Logger:
    import wandb

    # one id for one folder: a resumed run goes on in the same curves, and stages of two runs stay apart
    path = folder.absolute()
    id = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    run = wandb.init(project=project, dir=str(folder), config=config, id=id, name=path.name, resume="allow")
    return lambda step, values: run.log(values, step=step)


def known_peak(device: str, precision: str) -> float | None:
    """TFLOPs a second of this card at most, None where nobody has printed it (CPUs, other cards, float32)."""
    card = card_here() if device == "cuda" and precision == "bf16" else None
    return PEAKS[card] if card is not None else None


class Speed:
    """How fast the last steps were: tokens and FLOPs a second, and the share of what devices can do at most (MFU)."""

    def __init__(self, peak: float | None) -> None:
        self.peak, self.tokens, self.flops, self.seconds = peak, 0.0, 0.0, 0.0

    def add(self, report: Mapping[str, Any], flops: float, seconds: float) -> None:
        """Take in a step; what happens between steps (measuring, saving) is not its time."""
        self.tokens += float(report.get("tokens", 0))
        self.flops += flops
        self.seconds += seconds

    def since(self) -> dict[str, float]:
        """Figures since they were asked for the last time."""
        figures, seconds = {}, max(self.seconds, 1e-9)
        if self.tokens:
            figures["tokens_per_second"] = self.tokens / seconds
        if self.flops:
            figures["gflops_per_second"] = self.flops / seconds / 1e9
            if self.peak:
                figures["mfu"] = self.flops / seconds / self.peak
        self.tokens = self.flops = self.seconds = 0.0
        return figures


class RunLog:
    """``metrics.jsonl`` plus a progress bar; a resumed run drops lines beyond the step it resumes from."""

    def __init__(
        self, folder: Path, steps: int, start: int, title: str, loggers: Sequence[Logger] = ()
    ) -> None:
        self.path, self.steps, self.title, self.loggers = folder / "metrics.jsonl", steps, title, loggers
        self.measured = False
        """Whether the held-out figures of the step that is resumed from stand there."""
        if self.path.exists():
            data = read_small_bytes(self.path, most=1 << 30, error=OutputError)
            lines = data.decode("utf-8", "replace").splitlines()
            kept = [line for line in lines if _step_of(line, self.path) <= start]
            write_text(self.path, "".join(line + "\n" for line in kept))
            last = [line for line in kept[-2:] if _step_of(line, self.path) == start]
            self.measured = any('"lr"' not in line for line in last)  # a training step's report has one
        self.clock = time.monotonic()
        self.bar = ExitStack()
        self.show = self.bar.enter_context(progress(title))
        if start != 1:  # a first report of 1 would time that step, which was made before
            self.advance(start)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one report. Raises OutputError."""
        row = {"step": step, "seconds": round(time.monotonic() - self.clock, 2)}
        row |= {name: float(f"{float(value):.6g}") for name, value in values.items()}
        try:
            with self.path.open("a") as file:
                plain = {name: value if math.isfinite(value) else None for name, value in row.items()}
                file.write(json.dumps(plain, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); free some space") from None
        for logger in self.loggers:
            logger(step, {name: float(value) for name, value in values.items()})
        if not sys.stderr.isatty():
            say(" ".join(f"{name}={value:.5g}" for name, value in row.items()))

    def advance(self, step: int) -> None:
        """Move the progress bar to ``step``."""
        self.show(self.title, step, self.steps)

    def close(self) -> None:
        """Stop drawing the progress bar."""
        self.bar.close()


def _step_of(line: str, file: Path) -> float:
    """The step a line reports; one that a crash cut short belongs to none and is left out, with a warning."""
    try:
        return float(parse_json(line, str(file), nan_is_none=True)["step"])
    except (ValueError, KeyError, TypeError):
        warnings.warn(f"{file}: a line that cannot be read is left out: {line[:60]!r}", stacklevel=3)
        return float("inf")
