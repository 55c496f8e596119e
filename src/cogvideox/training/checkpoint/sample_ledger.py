"""Which samples a run has learned from: one line each, committed with the state.

Lost or doubled samples are then found by comparing two files. What was written after the last state is cut off on
resume, because those steps are done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cogvideox.errors import CheckpointError, OutputError


class SampleLedger:
    """``ledger.jsonl``; lines stand in memory until ``commit``."""

    def __init__(self, folder: Path, size: int) -> None:
        self.file = folder / "ledger.jsonl"
        self.lines: list[str] = []
        held = self.file.stat().st_size if self.file.exists() else 0
        if held < size:
            raise CheckpointError(
                f"{self.file}: {held} bytes, the state was saved with {size}; it was cut or replaced"
            )
        if held > size:
            os.truncate(self.file, size)
        self.size = size

    def add(self, step: int, names: Sequence[str]) -> None:
        """Note the samples of a step."""
        self.lines += [
            json.dumps({"step": step, "slot": slot, "id": name}) for slot, name in enumerate(names)
        ]

    def commit(self) -> int:
        """Write what was noted, durably; the size of the file. Raises OutputError."""
        if self.lines:
            data = "".join(line + "\n" for line in self.lines).encode()
            try:
                with open(self.file, "ab") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise OutputError(
                    f"{self.file}: cannot be written ({error.strerror}); free some space"
                ) from None
            self.size += len(data)
            self.lines = []
        return self.size
