"""The states of a run: what they hold (``TrainState``), when they are written (``Saver``), the ledger of samples.

A background save takes a copy and lets a thread write it, one at a time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.errors import CheckpointError, CogVideoXError, OutputError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.shard import local_shard, shard_optimizer_state, to_local
from cogvideox.training.checkpoint.state import Snapshot, snapshot, write_state
from cogvideox.training.checkpoint.writers import Writers
from cogvideox.training.optim import EMA
from cogvideox.training.step_guard import Guard
from cogvideox.training.task import Task


@dataclass
class TrainState:
    """All of a run that changes: ``state_dict`` collects it for a state, ``load_state_dict`` puts it back."""

    task: Task
    optimizers: Sequence[torch.optim.Optimizer]
    ema: EMA | None
    guard: Guard
    data_facts: dict[str, Any] | None
    out: Path

    def state_dict(self) -> dict[str, Any]:
        """All of it as a tree of plain values and tensors; weights that are frozen are left out."""
        return {
            "module": _trained_weights(self.task.module),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.ema.state_dict() if self.ema is not None else None,
            "critic": _trained_weights(self.task.critic) if self.task.critic is not None else None,
            "guard": self.guard.state_dict(),
            **({"data": self.data_facts} if self.data_facts is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises CheckpointError when it is of another network."""
        self._load_weights(self.task.module, state["module"])
        if self.task.critic is not None:
            self._load_weights(self.task.critic, state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(shard_optimizer_state(saved, optimizer))
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])

    @torch.no_grad()
    def _load_weights(self, network: nn.Module, saved: dict[str, Any]) -> None:
        own, known = _trained_weights(network), saved.keys() - _frozen(network)
        if own.keys() != known:
            names = ", ".join(sorted(own.keys() ^ known)[:3])
            raise CheckpointError(f"{self.out}: its state is of another network: {names} do not match")
        for name, value in own.items():
            if value.shape != saved[name].shape:
                raise CheckpointError(
                    f"{self.out}: its state is of another network: {name} is {tuple(saved[name].shape)} there and "
                    f"{tuple(value.shape)} here"
                )
            to_local(value).copy_(local_shard(saved[name], value))


def _frozen(network: nn.Module) -> set[str]:
    return {name for name, weight in network.named_parameters() if not weight.requires_grad}


def _trained_weights(network: nn.Module) -> dict[str, Tensor]:
    frozen = _frozen(network)
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


class Saver:
    """Writes the states of one run. ``background``: the run goes on meanwhile, for the price of a copy in memory."""

    def __init__(self, folder: Path, parallel: DataParallel, background: bool = False) -> None:
        self.folder, self.parallel, self.background = folder, parallel, background
        self.writers = Writers(parallel.rank, parallel.world_size) if parallel.sharded else Writers()
        self.thread: threading.Thread | None = None
        self.error: CogVideoXError | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy ``state`` and write it, now or in the background; every process of the run calls this. Raises
        NumericsError for weights that are not finite. A failure to write is kept for ``raise_if_failed``."""
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


class SampleLedger:
    """``ledger.jsonl``, one line for each sample that a run has learned from; lines stand in memory until ``commit``.

    Lost or doubled samples are found by comparing two files. What was written after the last state (``size``: the bytes
    it knew of) is cut off on resume, because those steps are done again.
    """

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
