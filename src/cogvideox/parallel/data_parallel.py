"""The processes of one run: who takes which part of a step, and how the parts become one gradient.

A step is a fixed list of calls of the task, and what a call draws depends on its number alone. Ranks take calls in
turn, so any number of ranks, up to that of calls, goes through the same samples, timesteps and noise in the same
order, and a run may go on with another number. ``fast`` adds gradients up rank by rank; ``exact`` adds them call by
call in the order of one process, so that weights are equal to the last bit, for the price of everybody's gradients
in memory.

Where weights lie in parts (``mesh.shard`` or ``mesh.context`` above 1), the ranks that share every clip take a call
together, FSDP2 adds the gradients up, and there are as many groups as data times shard.
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

Adding = Literal["fast", "exact"]
BEAT = 10.0  # seconds between two signs of life, far below what a collective waits
_DONE, _FAILED, _BUSY = range(3)  # what the first process says to those that wait for it


class DataParallel:
    """Alone, everything here does nothing.

    Raises ConfigError when the mesh is not made of as many ranks as were started, and when a step has fewer calls
    than there are groups of ranks or cannot be shared by them.
    """

    def __init__(self, calls: int, adding: Adding = "fast", mesh: MeshConfig | None = None) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        data, shard, context = (mesh or MeshConfig()).sizes(self.size)
        self.calls, self.adding, self.in_parts = calls, adding, shard * context > 1
        self.groups, self.group = data * shard, self.rank // context
        self.leads = self.rank % context == 0
        if calls < self.groups:
            raise ConfigError(
                f"parts {calls}: {self.size} processes were started, {self.groups} of them take a part of a step "
                f"each; set task.parts={self.groups} or more, or start fewer"
            )
        if self.in_parts and calls % self.groups:
            raise ConfigError(
                f"parts {calls}, mesh data {data} x shard {shard}: weights in parts are gathered by all at once, so "
                f"each must take as many; set task.parts to a multiple of {self.groups}"
            )
        if self.in_parts and adding == "exact":
            raise ConfigError(
                f"adding exact, mesh shard {shard} x context {context}: exact sums whole gradients and FSDP2 adds "
                "up their parts; use adding=fast, or mesh.data alone"
            )
        self.sums: list[Tensor | None] = []

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def is_mine(self, place: int) -> bool:
        """Whether the call at this place of a step is this process's, alone or with those that share its clips."""
        return place % self.groups == self.group

    @property
    def share(self) -> float:
        """What a loss is multiplied by: FSDP2 takes the mean over groups where a step wants the sum."""
        return float(self.groups) if self.in_parts else 1.0

    def after(self, place: int, weights: Sequence[nn.Parameter]) -> None:
        """After the call at ``place``, whoever made it: exact adding takes a round of gradients at its end."""
        if self.size == 1 or self.in_parts or self.adding == "fast":
            return
        if (place + 1) % self.size and place + 1 < self.calls:
            return
        self._collect(weights, present=place % self.size + 1)

    def finish(self, weights: Sequence[nn.Parameter]) -> None:
        """At the end of a step: every process holds the gradients of all calls, of the weights that it holds."""
        if self.size == 1 or self.in_parts:
            return
        if self.adding == "exact":
            for weight, total in zip(weights, self.sums, strict=True):
                # in the weight's own memory format: a fused optimiser reads both as they lie
                weight.grad = None if total is None else torch.empty_like(weight).copy_(total)
            self.sums = []
            return
        for weight in weights:
            if weight.grad is not None:
                total = weight.grad.contiguous()
                dist.all_reduce(total)
                weight.grad.copy_(total)

    def merged(self, reports: dict[int, dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """What every call of the step reported, in order; ``reports``: mine, by place."""
        if self.size == 1:
            return [reports[place] for place in range(self.calls)]
        names = list(reports[self.group])
        mine = {place: [float(report[name]) for name in names] for place, report in reports.items()}
        kinds = [reports[self.group][name].dtype for name in names]
        rows = self.table(mine, self.calls, len(names))
        return [{name: torch.tensor(row[i], dtype=kinds[i]) for i, name in enumerate(names)} for row in rows]

    def table(self, mine: Mapping[int, Sequence[float]], rows: int, width: int) -> list[list[float]]:
        """Numbers by row, each known to one group of ranks; on return all of them are known to all, unchanged."""
        table = torch.zeros(rows, width, dtype=torch.float64)
        if self.leads:
            for row, values in mine.items():
                table[row] = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(table)  # every row is zero but for its owner
        return table.tolist()

    def turns(self, count: int) -> list[int]:
        """Which of ``count`` pieces of work this process does. Where weights lie in parts all do equally many, for
        they are gathered together: then some are done twice."""
        if not self.in_parts:
            return list(range(self.group, count, self.groups))
        rounds = -(-count // self.groups)
        return [min(turn * self.groups + self.group, count - 1) for turn in range(rounds)]

    def any(self, flag: bool) -> bool:
        """Whether it is so for any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process does what is inside alone, then the others do.

        It may take hours, longer than a collective waits: meanwhile a thread of the first tells the others every few
        seconds that it lives. When it fails the others do not begin: they raise ConfigError, so that nobody waits for
        the dead. Nothing inside may be a collective.
        """
        if self.size == 1:
            yield
        elif self.is_first:
            with self._telling():
                yield
        else:
            word = _BUSY
            while word == _BUSY:
                word = _said_by_first(word)
            if word == _FAILED:
                raise ConfigError("the first process of this run could not begin; see its message")
            yield

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """The others hear that this process is busy, at the end how it went."""
        done = Event()
        thread = Thread(target=_say_busy, args=(done,), daemon=True)
        thread.start()
        word = _FAILED
        try:
            yield
            word = _DONE
        finally:
            done.set()
            thread.join()
            _said_by_first(word)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def _collect(self, weights: Sequence[nn.Parameter], present: int) -> None:
        """Add the gradients of the first ``present`` ranks of a round, one after the other."""
        if not self.sums:
            self.sums = [None] * len(weights)
            self.moved = [place for place, weight in enumerate(weights) if weight.grad is not None]
        for place in self.moved:
            weight = weights[place]
            mine = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            every = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(self.size)]
            dist.all_gather(every, mine.contiguous())
            for grad in every[:present]:
                total = self.sums[place]
                self.sums[place] = grad if total is None else total + grad
            weight.grad = None


def _said_by_first(word: int) -> int:
    """What the first process says; ``word`` counts there alone."""
    said = torch.tensor(word)
    dist.broadcast(said, src=0)
    return int(said)


def _say_busy(done: Event) -> None:
    while not done.wait(BEAT):
        try:
            _said_by_first(_BUSY)
        except RuntimeError:  # another process is gone: the last word meets the same error, and raises it
            return
