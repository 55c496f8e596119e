"""The processes of one run: who takes which part of a step, and how the parts become one gradient.

A step is a fixed list of calls of the task, and what a call draws depends on its number alone. Ranks take calls in
turn, so any number of ranks, up to that of calls, goes through the same samples, timesteps and noise in the same
order, and a run may go on with another number. ``fast`` adds gradients up rank by rank; ``exact`` adds them call by
call in the order of one process, so that weights are equal to the last bit, for the price of everybody's gradients
in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.errors import ConfigError

Adding = Literal["fast", "exact"]


class Team:
    """Alone, everything here does nothing. Raises ConfigError when a step has fewer calls than there are ranks."""

    def __init__(self, calls: int, adding: Adding = "fast") -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.calls, self.adding = calls, adding
        if calls < self.size:
            raise ConfigError(
                f"parts {calls}: {self.size} processes were started and each takes a part of a step; "
                f"set task.parts={self.size} or more, or start fewer"
            )
        self.sums: list[Tensor | None] = []

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def is_mine(self, place: int) -> bool:
        """Whether the call at this place of a step is this process's."""
        return place % self.size == self.rank

    def after(self, place: int, weights: Sequence[nn.Parameter]) -> None:
        """After the call at ``place``, whoever made it: exact adding takes a round of gradients at its end."""
        if self.size == 1 or self.adding == "fast":
            return
        if (place + 1) % self.size and place + 1 < self.calls:
            return
        self._collect(weights, present=place % self.size + 1)

    def finish(self, weights: Sequence[nn.Parameter]) -> None:
        """At the end of a step: every process holds the gradients of all calls."""
        if self.size == 1:
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
        names = list(reports[self.rank])
        table = torch.zeros(self.calls, len(names), dtype=torch.float64)
        for place, report in reports.items():
            table[place] = torch.stack([report[name].detach().double().cpu() for name in names])
        dist.all_reduce(table)  # every row is zero but for its owner
        kinds = [reports[self.rank][name].dtype for name in names]
        rows = table.unbind()
        return [{n: row[i].to(kinds[i]) for i, n in enumerate(names)} for row in rows]

    def any(self, flag: bool) -> bool:
        """Whether it is so for any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process does what is inside alone, then the others do."""
        if self.size > 1 and not self.is_first:
            dist.barrier()
        yield
        if self.size > 1 and self.is_first:
            dist.barrier()

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
