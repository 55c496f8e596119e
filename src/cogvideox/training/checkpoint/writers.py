"""Several processes that write one state: they meet in the folder, not in collectives, so threads can do it.

The first process makes the hidden folder; the others find it, write their files and then ``rank-<n>.json`` with the
digests, or ``rank-<n>.failed`` with the reason. The first one waits for all of them. Nobody waits without end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.errors import OutputError

PATIENCE = 600.0
"""Seconds after which a process that has said nothing is taken for dead."""
MOMENT = 5.0
"""Seconds for which a first process that has failed stays, so that no other waits for a folder that never comes."""


@dataclass(frozen=True)
class Writers:
    """Who writes a state together: ``size`` processes, of which this is number ``rank``."""

    rank: int = 0
    size: int = 1
    patience: float = PATIENCE

    @property
    def is_first(self) -> bool:
        """Whether this one makes the folder and finishes it."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """What the names of this process's files of tensors begin with."""
        return f"{self.rank:05d}-" if self.size > 1 else ""

    @contextmanager
    def leading(self, work: Path) -> Iterator[None]:
        """The first process works in the body; when it fails, the others get a moment to notice in ``work``."""
        try:
            yield
        except (OSError, OutputError):
            end = time.monotonic() + min(self.patience, MOMENT)
            while len(list(work.glob("rank-*"))) < self.size - 1 and time.monotonic() < end:
                time.sleep(0.01)
            raise

    @contextmanager
    def joining(self, target: Path) -> Iterator[Path]:
        """The hidden folder of ``target``, made by the first process. Raises OutputError, and notes it there."""
        work = self._find(target)
        try:
            yield work
        except OSError as error:
            with suppress(OSError):
                (work / f"rank-{self.rank}.failed").write_text(error.strerror or str(error))
            reason = (
                (error.strerror or error) if work.is_dir() else "the first process gave up; see its message"
            )
            raise OutputError(f"{target}: cannot be written: {reason}") from error

    def publish(self, work: Path, files: dict[str, Any]) -> None:
        """Make this process's files durable, then list them for the first process."""
        for name in files:
            with open(work / name, "rb") as stream:
                os.fsync(stream.fileno())
        listing = work / f".rank-{self.rank}"
        listing.write_text(json.dumps(files))
        listing.rename(work / f"rank-{self.rank}.json")

    def others(self, work: Path) -> dict[str, Any]:
        """The files of all others, once they are there. Raises OutputError when one of them fails or is silent."""
        files: dict[str, Any] = {}
        for rank in range(1, self.size):
            listing = work / f"rank-{rank}.json"
            self._until(listing.exists, work, f"process {rank} has written nothing of")
            files |= json.loads(listing.read_bytes())
        for rank in range(1, self.size):
            (work / f"rank-{rank}.json").unlink()
        return files

    def _find(self, target: Path) -> Path:
        folders: list[Path] = []

        def exists() -> bool:
            folders.extend(target.parent.glob(f".{target.name}.new-*/new"))
            return bool(folders)

        self._until(exists, target, "the first process has not begun")
        return folders[0]

    def _until(self, done: Callable[[], bool], folder: Path, silent: str) -> None:
        end = time.monotonic() + self.patience
        while not done():
            failed = sorted(folder.glob("rank-*.failed"))
            if failed:
                reason = failed[0].read_text()
                raise OutputError(
                    f"{folder}: {failed[0].stem} cannot write its shard: {reason}; free some space"
                )
            if time.monotonic() > end:
                raise OutputError(
                    f"{folder}: {silent} it in {self.patience:.0f} s; do all processes see this folder?"
                )
            time.sleep(0.01)


ALONE = Writers()
