"""Which part of which memory a tensor touches: the currency in which traffic is counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A view of one storage: its number, where it starts (elements), sizes, strides, and bytes per element.

    Dimensions of stride 0 (expanded) or size 1 touch nothing new and are left out; those that follow each other
    without a gap are one. So every view of the same memory is the same region.
    """

    storage: int
    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, tensor: Tensor, storage: int) -> Region:
        """The region that ``tensor`` touches in the storage with this number."""
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        dims = sorted(((n, step) for n, step in pairs if step and n != 1), key=lambda dim: -dim[1])
        if tensor.numel() == 0:
            dims = [(0, 1)]
        dims = _joined(dims)
        sizes, strides = tuple(n for n, _ in dims), tuple(step for _, step in dims)
        return cls(storage, tensor.storage_offset(), sizes, strides, tensor.element_size())

    @property
    def bytes(self) -> int:
        """Distinct bytes touched."""
        count = self.itemsize
        for size in self.sizes:
            count *= size
        return count

    def overlaps(self, other: Region) -> bool:
        """Whether both touch the same memory: exact for slices of one tensor, else by where they begin and end."""
        if self.storage != other.storage:
            return False
        if self.strides == other.strides and self.itemsize == other.itemsize:
            return self._boxes_meet(other)
        (a, b), (c, d) = self._ends(), other._ends()
        return a < d and c < b

    def _boxes_meet(self, other: Region) -> bool:
        mine, theirs = self.start, other.start
        for size, other_size, step in zip(self.sizes, other.sizes, self.strides, strict=True):
            (i, mine), (j, theirs) = divmod(mine, step), divmod(theirs, step)
            if i >= j + other_size or j >= i + size:
                return False
        return True

    def _ends(self) -> tuple[int, int]:
        last = sum((size - 1) * step for size, step in zip(self.sizes, self.strides, strict=True))
        return self.start * self.itemsize, (self.start + last + 1) * self.itemsize


def _joined(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(size, stride) pairs, outer first, with neighbours that run on without a gap made one."""
    found: list[tuple[int, int]] = []
    for size, step in dims:
        if found and found[-1][1] == size * step:
            size *= found.pop()[0]
        found.append((size, step))
    return found
