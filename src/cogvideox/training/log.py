"""What a run says: one line of JSON per report, and a progress bar with the time left on stderr."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.atomic import atomic_file


class RunLog:
    """``metrics.jsonl`` plus a progress bar; a resumed run drops lines beyond the step it resumes from."""

    def __init__(self, folder: Path, steps: int, start: int, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line, self.path) <= start]
            with atomic_file(self.path, overwrite=True) as work:
                work.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.clock = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.bar = self.progress.add_task(title, total=steps, completed=start)
        self.progress.start()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one report."""
        row = {"step": step, "seconds": round(time.monotonic() - self.clock, 2)}
        row |= {name: round(float(value), 6) for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.progress.disable:
            print(" ".join(f"{name}={value:.5g}" for name, value in row.items()), file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """Move the bar."""
        self.progress.update(self.bar, completed=step)

    def close(self) -> None:
        """Stop drawing."""
        self.progress.stop()


def _step_of(line: str, file: Path) -> float:
    """The step a line reports; one that a crash cut short belongs to none and is left out, with a warning."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        warnings.warn(f"{file}: a line that cannot be read is left out: {line[:60]!r}", stacklevel=3)
        return float("inf")
