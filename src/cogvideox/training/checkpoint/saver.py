"""Saving states, in the background where wanted: a copy is taken and a thread writes it, one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from cogvideox.errors import CogVideoXError, OutputError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.training.checkpoint.state import Snapshot, snapshot, write_state
from cogvideox.training.checkpoint.writers import Writers


class Saver:
    """Writes the states of one run. ``background``: the run goes on meanwhile, for the price of a copy in memory."""

    def __init__(self, folder: Path, parallel: DataParallel, background: bool = False) -> None:
        self.folder, self.parallel, self.background = folder, parallel, background
        self.writers = Writers(parallel.rank, parallel.world_size) if parallel.sharded else Writers()
        self.thread: threading.Thread | None = None
        self.error: CogVideoXError | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy ``state`` and write it, now or in the background; every process of the run calls this.

        Raises NumericsError for weights that are not finite. A failure to write is kept for ``raise_if_failed``.
        """
        self.wait()
        taken = None
        if self.parallel.sharded or self.parallel.is_main_process:
            try:
                taken = snapshot(step, state)
            except CogVideoXError as error:
                self.error = error
        self.raise_if_failed()  # nobody begins what another cannot finish
        if taken is None:
            return
        if self.background:
            self.thread = threading.Thread(target=self._write, args=(taken,), name="save")
            self.thread.start()
        else:
            self._write(taken)

    def raise_if_failed(self) -> None:
        """Raise OutputError, on all processes, when the last save has failed on any of them."""
        if self.parallel.any(self.error is not None):
            error, self.error = self.error, None
            raise error or OutputError(
                f"{self.folder}: another process could not write its shard of the state; see its message"
            )

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _write(self, taken: Snapshot) -> None:
        try:
            write_state(self.folder, taken, self.writers)
        except CogVideoXError as error:
            self.error = error
        except Exception as error:
            if not self.background:
                raise
            self.error = OutputError(
                f"{self.folder}: step {taken.step} cannot be saved: {error}"
            )  # a thread's own end is silent
