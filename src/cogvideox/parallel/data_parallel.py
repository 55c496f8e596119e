"""Data parallelism with gradient accumulation: which process does which micro-steps, and how gradients are summed.

A step is a fixed list of ``accumulation`` micro-steps, of all processes together, and what a micro-step draws depends
on its number in the run alone. Ranks take micro-steps in turn, so any number of ranks, up to that of micro-steps, goes
through the same samples, timesteps and noise in the same order, and a run may go on with another number. ``fast`` sums
gradients rank by rank; ``exact`` sums them micro-step by micro-step in the order of one process, so that weights are
equal to the last bit, for the price of everybody's gradients in memory.

Where weights are sharded (``mesh.shard`` or ``mesh.context`` above 1), the ranks that share every clip take a
micro-step together, FSDP2 sums the gradients, and the data-parallel size is data times shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.errors import ConfigError
from cogvideox.parallel.mesh import MeshConfig

Reduce = Literal["fast", "exact"]
HEARTBEAT = 10.0
"""Seconds between two signs of life of the main process, far below what a collective waits."""
_DONE, _FAILED, _BUSY = range(3)  # what the main process broadcasts to those that wait for it


class DataParallel:
    """This process among those of a run; alone, every method is a no-op.

    Raises ConfigError when the mesh is not made of as many ranks as were started, and when a step has fewer micro-steps
    than the data-parallel size or cannot be shared evenly where weights are sharded.
    """

    def __init__(self, accumulation: int, reduce: Reduce = "fast", mesh: MeshConfig | None = None) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        data, shard, context = (mesh or MeshConfig()).sizes(self.world_size)
        self.accumulation, self.reduce, self.sharded = accumulation, reduce, shard * context > 1
        self.dp_size, self.dp_rank = data * shard, self.rank // context
        self.is_context_rank0 = self.rank % context == 0
        if accumulation < self.dp_size:
            raise ConfigError(
                f"accumulation {accumulation}: {self.world_size} processes were started, {self.dp_size} of them take "
                f"micro-steps of their own; set task.accumulation={self.dp_size} or more, or start fewer"
            )
        if self.sharded and accumulation % self.dp_size:
            raise ConfigError(
                f"accumulation {accumulation}, mesh data {data} x shard {shard}: sharded weights are gathered by all "
                f"at once, so each must take as many micro-steps; set task.accumulation to a multiple of {self.dp_size}"
            )
        if self.sharded and reduce == "exact":
            raise ConfigError(
                f"reduce exact, mesh shard {shard} x context {context}: exact sums whole gradients and FSDP2 sums "
                "their shards; use reduce=fast, or mesh.data alone"
            )
        self._sums: list[Tensor | None] = []
        self._with_gradients: list[int] = []

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def owns(self, index: int) -> bool:
        """Whether this process does item ``index`` of shared work (a micro-step of a step, counted from 0; a batch of
        held-out data), alone or with the ranks that share its clips."""
        return index % self.dp_size == self.dp_rank

    def local_indices(self, count: int) -> list[int]:
        """Which of ``count`` items of shared work this process does. Where weights are sharded all processes do equally
        many, because they gather the weights together: then some items are done twice."""
        if not self.sharded:
            return list(range(self.dp_rank, count, self.dp_size))
        rounds = -(-count // self.dp_size)
        return [min(number * self.dp_size + self.dp_rank, count - 1) for number in range(rounds)]

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by: FSDP2 takes the mean over data-parallel ranks where a step needs the sum."""
        return float(self.dp_size) if self.sharded else 1.0

    def after_micro_step(self, index: int, weights: Sequence[nn.Parameter]) -> None:
        """To be called by all after micro-step ``index`` of a step, whoever did it: with ``exact``, the gradients of
        every round of micro-steps are collected at its end."""
        if self.world_size == 1 or self.sharded or self.reduce == "fast":
            return
        if (index + 1) % self.world_size and index + 1 < self.accumulation:
            return
        self._collect(weights, present=index % self.world_size + 1)

    def reduce_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """At the end of a step: every process gets the gradients of all micro-steps, of the weights that it holds."""
        if self.world_size == 1 or self.sharded:
            return
        if self.reduce == "exact":
            for weight, total in zip(weights, self._sums, strict=True):
                # in the weight's own memory format: a fused optimiser reads both as they lie
                weight.grad = None if total is None else torch.empty_like(weight).copy_(total)
            self._sums = []
            return
        for weight in weights:
            if weight.grad is not None:
                total = weight.grad.contiguous()
                dist.all_reduce(total)
                weight.grad.copy_(total)

    def gather_reports(self, reports: dict[int, dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The reports of all micro-steps of a step, in order; ``reports``: those of this process, by index."""
        if self.world_size == 1:
            return [reports[index] for index in range(self.accumulation)]
        names = list(reports[self.dp_rank])
        dtypes = [reports[self.dp_rank][name].dtype for name in names]
        own = {index: [float(report[name]) for name in names] for index, report in reports.items()}
        return [
            {name: torch.tensor(values[i], dtype=dtypes[i]) for i, name in enumerate(names)}
            for values in self.gather_table(own, self.accumulation, len(names))
        ]

    def gather_table(self, own: Mapping[int, Sequence[float]], length: int, width: int) -> list[list[float]]:
        """A table of ``length`` rows of numbers, each row known to one data-parallel rank (``own``: row -> numbers);
        all processes get all rows, unchanged."""
        table = torch.zeros(length, width, dtype=torch.float64)
        if self.is_context_rank0:
            for index, values in own.items():
                table[index] = torch.tensor(values, dtype=torch.float64)
        if self.world_size > 1:
            dist.all_reduce(table)  # every row is zero but for its owner
        rows: list[list[float]] = table.tolist()
        return rows

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any process."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return bool(count)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the body alone, then all others run it.

        It may take hours, longer than a collective waits: meanwhile a thread of the main process sends a heartbeat.
        When the main process fails the others raise ConfigError instead of running the body, so that nobody waits for
        it. No collective may be called inside.
        """
        if self.world_size == 1:
            yield
        elif self.is_main_process:
            with _heartbeat():
                yield
        else:
            status = _BUSY
            while status == _BUSY:
                status = _broadcast_status(status)
            if status == _FAILED:
                raise ConfigError("the first process of this run could not begin; see its message")
            yield

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def _collect(self, weights: Sequence[nn.Parameter], present: int) -> None:
        """Add the gradients of the first ``present`` ranks of a round, one after the other."""
        if not self._sums:
            self._sums = [None] * len(weights)
            self._with_gradients = [n for n, weight in enumerate(weights) if weight.grad is not None]
        for number in self._with_gradients:
            weight = weights[number]
            own = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            contiguous = torch.contiguous_format
            every = [torch.empty_like(own, memory_format=contiguous) for _ in range(self.world_size)]
            dist.all_gather(every, own.contiguous())
            for grad in every[:present]:
                total = self._sums[number]
                self._sums[number] = grad if total is None else total + grad
            weight.grad = None


@contextmanager
def _heartbeat() -> Iterator[None]:
    """The other processes hear that the main one is busy, and at the end whether it succeeded."""
    done = Event()
    thread = Thread(target=_send_heartbeats, args=(done,), daemon=True)
    thread.start()
    status = _FAILED
    try:
        yield
        status = _DONE
    finally:
        done.set()
        thread.join()
        _broadcast_status(status)


def _send_heartbeats(done: Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            _broadcast_status(_BUSY)
        except (
            RuntimeError
        ):  # another process is gone: the last broadcast meets the same error, and raises it
            return


def _broadcast_status(status: int) -> int:
    """The status of the main process; ``status`` counts there alone."""
    value = torch.tensor(status)
    dist.broadcast(value, src=0)
    return int(value)
