"""Which clips stand in which row of a run: a function of (settings, number of the row), so any row can be had again.

A resumed run asks for the next row; ranks ask for every w-th; no state has to be kept. Each clip comes once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

from cogvideox.data.pack import Row, RowStream, bucket_rows, pack_rows, shuffled
from cogvideox.errors import ConfigError

RowKind = Literal["batch", "pack", "bucket"]


class PackedRows(Protocol):
    """Rows of samples by number."""

    def __getitem__(self, number: int) -> Row: ...

    def first_sample(self, number: int) -> int:
        """The number in the run of the row's first sample."""


class BatchRows:
    """Rows of ``batch`` samples each, through one shuffled epoch after the other."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if not count:
            raise ConfigError("the data holds no sample; see `cogvideox data doctor`")
        self.count, self.batch, self.seed = count, batch, seed
        self.epoch, self.order = -1, [0]

    def __getitem__(self, number: int) -> Row:
        return tuple(self._sample(one) for one in range(number * self.batch, (number + 1) * self.batch))

    def first_sample(self, number: int) -> int:
        """The number in the run of the first sample of this row."""
        return number * self.batch

    def _sample(self, number: int) -> int:
        epoch, index = divmod(number, self.count)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, shuffled(self.count, self.seed, epoch)
        return self.order[index]


def rows_of(
    kind: RowKind,
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
        return RowStream(partial(_packed, tokens, budget, seed))
    return RowStream(partial(_bucketed, shapes, tokens, budget, seed))


def _packed(tokens: Sequence[int], budget: int, seed: int, epoch: int) -> list[Row]:
    return pack_rows(tokens, budget, seed, epoch)


def _bucketed(
    shapes: Sequence[tuple[int, ...]], tokens: Sequence[int], budget: int, seed: int, epoch: int
) -> list[Row]:
    return bucket_rows(shapes, tokens, budget, seed, epoch)
