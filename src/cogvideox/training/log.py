"""What a run says: one line of JSON per report, and a progress bar with the time left on stderr."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class RunLog:
    """``metrics.jsonl`` plus a progress bar; a resumed run drops lines beyond the step it resumes from."""

    def __init__(self, folder: Path, steps: int, start: int, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= start]
            self.path.write_text("".join(line + "\n" for line in lines))
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
