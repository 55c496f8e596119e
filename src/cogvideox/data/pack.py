"""Which clips each micro-step of a run reads, in a row: elsewhere the sampler and collate function of a DataLoader.

Frame pack (paper section 2.4, Fig. 6): clips of any length and size, and images, in rows of one token budget. The
samples of an epoch are shuffled, cut into windows, and each window is laid into rows by best fit, largest first; rows
that are not full wait for the next window. Or buckets: rows of clips of one shape, a plain dense batch. Every sample
stands in exactly one row of an epoch. Rows are a function of (sizes, seed, epoch): rank r of w takes rows r, r + w, ...
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch

from cogvideox.errors import ConfigError
from cogvideox.noise import generator

Row = tuple[int, ...]
"""The numbers of the samples that stand in one row, in the order they stand."""

WINDOW = 1024


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the samples 0 ... count - 1 in an epoch."""
    return torch.randperm(count, generator=generator(seed, "order of samples", epoch)).tolist()


def pack_rows(
    tokens: Sequence[int], budget: int, seed: int = 0, epoch: int = 0, window: int = WINDOW
) -> list[Row]:
    """Rows of at most ``budget`` tokens that hold every sample once; ``tokens[i]`` is the size of sample i. Raises
    ConfigError for a sample that is larger than a row."""
    _check_sizes(tokens, budget)
    order = shuffled(len(tokens), seed, epoch)
    open_rows, full = _OpenRows(budget), []
    for start in range(0, len(order), window):
        for sample in sorted(order[start : start + window], key=lambda one: (-tokens[one], one)):
            open_rows.put(sample, tokens[sample])
        full += open_rows.close(0.98 * budget)
    full += open_rows.close(0)
    order_of_rows = torch.randperm(len(full), generator=generator(seed, "order of rows", epoch)).tolist()
    return [full[index] for index in order_of_rows]


def waste(packed: Sequence[Row], tokens: Sequence[int], budget: int) -> float:
    """The share of the rows' tokens that hold nothing; 0 without rows."""
    return 1 - sum(tokens[one] for row in packed for one in row) / (len(packed) * budget) if packed else 0.0


def _check_sizes(tokens: Sequence[int], budget: int) -> None:
    for sample, size in enumerate(tokens):
        if not 0 < size <= budget:
            raise ConfigError(
                f"sample {sample} has {size} tokens, a row has {budget}; raise the token budget, or allow fewer "
                "frames or pixels"
            )


class _OpenRows:
    """Rows with tokens left, ordered by how many: the fullest that still takes a sample is found by bisection."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.free: list[tuple[int, int]] = []  # (tokens left, number of the row), sorted
        self.contents: dict[int, list[int]] = {}
        self.opened = 0

    def put(self, sample: int, size: int) -> None:
        index = bisect_left(self.free, (size, -1))
        left, row = self.free.pop(index) if index < len(self.free) else (self.budget, self._new())
        self.contents[row].append(sample)
        insort(self.free, (left - size, row))

    def close(self, at_least: float) -> list[Row]:
        """Take out the rows that hold so many tokens or more."""
        done = [entry for entry in self.free if self.budget - entry[0] >= at_least]
        self.free = [entry for entry in self.free if self.budget - entry[0] < at_least]
        return [tuple(self.contents.pop(row)) for _, row in sorted(done, key=lambda entry: entry[1])]

    def _new(self) -> int:
        self.opened += 1
        self.contents[self.opened] = []
        return self.opened


def bucket_rows(
    shapes: Sequence[Hashable], tokens: Sequence[int], budget: int, seed: int = 0, epoch: int = 0
) -> list[Row]:
    """Batches of one shape that hold every sample once; a shape's last batch of an epoch may be smaller.

    ``shapes[i]`` is anything that two samples share when they can be stacked, ``tokens[i]`` their size. Raises
    ConfigError for a sample larger than the budget.
    """
    _check_sizes(tokens, budget)
    by_shape: dict[Hashable, list[int]] = defaultdict(list)
    for sample in shuffled(len(shapes), seed, epoch):
        by_shape[shapes[sample]].append(sample)
    rows: list[Row] = []
    for samples in by_shape.values():
        many = budget // tokens[samples[0]]
        rows += [tuple(samples[start : start + many]) for start in range(0, len(samples), many)]
    order_of_rows = torch.randperm(len(rows), generator=generator(seed, "order of rows", epoch)).tolist()
    return [rows[index] for index in order_of_rows]


Batching = Literal["batch", "pack", "bucket"]
"""How clips are collated into the batch of a micro-step: so many clips, one token budget, or clips of one shape."""


class PackedRows(Protocol):
    """Rows of samples by number: any can be asked for at any time, so a resumed run goes on with the next one."""

    def __getitem__(self, number: int) -> Row: ...

    def first_sample(self, number: int) -> int:
        """How many samples stand in the rows before this one: the number of its first sample in the run."""


@dataclass
class RowStream(PackedRows):
    """The rows of all epochs, one after the other, by number: any step of a run can be asked for at any time.

    ``plan(epoch)`` gives the rows of an epoch. Where an epoch's rows do not fill the last step, the next epoch
    begins in that step: no sample is left out and none comes twice in an epoch.
    """

    plan: Callable[[int], list[Row]]
    ends: list[tuple[int, int]] = field(default_factory=list)  # (rows, samples) up to the end of each epoch
    cached: tuple[int, list[Row]] | None = None

    def __getitem__(self, number: int) -> Row:
        epoch, index = self.locate(number)
        return self._rows_of(epoch)[index]

    def locate(self, number: int) -> tuple[int, int]:
        """The epoch of a row, and its place in it."""
        epoch = 0
        while number >= self._end(epoch)[0]:
            epoch += 1
        return epoch, number - (self._end(epoch - 1)[0] if epoch else 0)

    def first_sample(self, number: int) -> int:
        epoch, index = self.locate(number)
        before = self._end(epoch - 1)[1] if epoch else 0
        return before + sum(len(row) for row in self._rows_of(epoch)[:index])

    def _end(self, epoch: int) -> tuple[int, int]:
        while len(self.ends) <= epoch:
            rows, samples = self.ends[-1] if self.ends else (0, 0)
            new = self._rows_of(len(self.ends))
            if not new:
                raise ConfigError("the data holds no sample; see `cogvideox data doctor`")
            self.ends.append((rows + len(new), samples + sum(map(len, new))))
        return self.ends[epoch]

    def _rows_of(self, epoch: int) -> list[Row]:
        if self.cached is None or self.cached[0] != epoch:
            self.cached = (epoch, self.plan(epoch))
        return self.cached[1]


class BatchRows(PackedRows):
    """Rows of ``batch`` samples each, through one shuffled epoch after the other."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if not count:
            raise ConfigError("the data holds no sample; see `cogvideox data doctor`")
        self.count, self.batch, self.seed = count, batch, seed
        self.epoch, self.order = -1, [0]

    def __getitem__(self, number: int) -> Row:
        return tuple(self._sample(one) for one in range(number * self.batch, (number + 1) * self.batch))

    def first_sample(self, number: int) -> int:
        return number * self.batch

    def _sample(self, number: int) -> int:
        epoch, index = divmod(number, self.count)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, shuffled(self.count, self.seed, epoch)
        return self.order[index]


def rows_of(
    kind: Batching,
    shapes: Sequence[tuple[int, ...]],
    tokens: Sequence[int],
    *,
    batch: int,
    budget: int,
    seed: int,
) -> PackedRows:
    """Rows of one kind over samples of these shapes and sizes; raises ConfigError when a sample fits no row."""
    if kind == "batch":
        return BatchRows(len(shapes), batch, seed)
    if kind == "pack":
        return RowStream(partial(pack_rows, tokens, budget, seed))
    return RowStream(partial(bucket_rows, shapes, tokens, budget, seed))
