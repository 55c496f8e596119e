"""Calls and bytes moved by a piece of work, counted without a device; ``cogvideox.memory.count`` counts the rest.

Views cost nothing; everything else reads its inputs and writes its outputs once. The bytes that are left when
neighbouring small operators run as one pass, the way a compiler fuses them, are counted greedily, in the order of
execution: pointwise operators, copies and normalisations join the group before them; a matrix product, convolution or
attention ends it. Of a group only what comes from outside is read, and only what somebody reads later is written.
Layer normalisation keeps its row at hand; group normalisation needs its whole input before the first result, so it
ends one group with its statistics and begins the next by reading the input again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cogvideox.memory.count import Counter as MemoryCounter
from cogvideox.memory.count import FusedAttention, tensors_in

aten = torch.ops.aten
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.uniform_}
NOT_POINTWISE = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution),
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_efficient_attention,
    *(aten.native_layer_norm, aten.native_group_norm),
    *(aten.cat, aten.stack, aten.clone, aten.copy_, aten._to_copy, aten.constant_pad_nd),
    *(aten.upsample_nearest2d, aten.upsample_nearest3d),
}
TWO_PASSES = {"native_group_norm"}


@dataclass(frozen=True)
class Traffic:
    """What ``count`` counted, in bytes and FLOPs; a multiply-add is two FLOPs.

    calls: operators that are not views. traffic: bytes read and written by them, one by one. fused: the same
    when neighbouring pointwise operators, copies and normalisations become one pass; epilogue: when, besides, what
    is pointwise on the result of a product alone runs inside that product. peak: most bytes alive at once.
    """

    calls: int
    traffic: int
    fused: int
    epilogue: int
    flops: int
    peak: int


def count(work: Callable[[], Any], fuse: bool = True) -> Traffic:
    """Run ``work`` once, without gradients, and say what it cost. Without ``fuse`` two of the figures are 0."""
    counter = TrafficCounter()
    with torch.no_grad(), FusedAttention(), counter:
        result = work()
    calls, alive = counter.calls, counter.alive()
    cost = Traffic(
        calls=len(calls),
        traffic=sum(call.bytes for call in calls),
        fused=fused_traffic(calls, alive) if fuse else 0,
        epilogue=fused_traffic(calls, alive, epilogues=True) if fuse else 0,
        flops=counter.flops,
        peak=counter.peak,
    )
    del result  # somebody holds it until here
    return cost


class TrafficCounter(MemoryCounter):
    """Notes what every operator reads and writes. A storage gets a number when first seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._numbers = WeakIdKeyDictionary()
        self._outside: set[int] = set()
        self._next = 0

    def alive(self) -> set[int]:
        """Numbers of the storages that live on: made before the work, or still held."""
        return self._outside | set(self._numbers.values())

    def observe(self, func: Any, args: Any, kwargs: Any, result: Any, flops: int) -> None:
        """Note an operator that has run."""
        reads = [self._region(tensor, outside=True) for tensor in tensors_in((args, kwargs))]
        outputs = list(tensors_in(result)) or list(_overwritten(func, args, kwargs))
        writes = [self._region(tensor, outside=False) for tensor in outputs]
        packet = func._overloadpacket
        if packet in ALLOCATIONS or not outputs or _is_view(func, writes, reads):
            return
        if packet in OVERWRITES or "out" in kwargs:
            written = {(region.storage, region.start) for region in writes}
            reads = [region for region in reads if (region.storage, region.start) not in written]
        pointwise = packet not in NOT_POINTWISE
        self.calls.append(Call(packet.__name__, tuple(reads), tuple(writes), pointwise, flops > 0))

    def _region(self, tensor: Tensor, outside: bool) -> Region:
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            number = self._numbers[storage] = self._next
            self._next += 1
            if outside:
                self._outside.add(number)
        return Region.of(tensor, number)


def _overwritten(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """What an operator that returns nothing has written to."""
    positional = [argument.name for argument in func._schema.arguments[: len(args)]]
    values = {**dict(zip(positional, args, strict=True)), **kwargs}
    for argument in func._schema.arguments:
        value = values.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(value)


def _is_view(func: Any, writes: list[Region], reads: list[Region]) -> bool:
    """Nothing is written: the schema says so, or all results lie in the memory of the inputs."""
    if func._schema.is_mutable:
        return False
    given = {region.storage for region in reads}
    return bool(writes) and all(region.storage in given for region in writes)


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
        return self.itemsize * prod(self.sizes)

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
    joined: list[tuple[int, int]] = []
    for size, step in dims:
        if joined and joined[-1][1] == size * step:
            size *= joined.pop()[0]
        joined.append((size, step))
    return joined


@dataclass(frozen=True)
class Call:
    """One operator: its name, what it reads and writes, whether it is pointwise, or too heavy to be fused."""

    name: str
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]
    pointwise: bool
    heavy: bool

    @property
    def bytes(self) -> int:
        """Bytes moved when it runs by itself."""
        return sum(region.bytes for region in (*self.reads, *self.writes))


@dataclass
class _Group:
    """Calls in one pass: distinct regions from outside, and what is written."""

    reads: set[Region] = field(default_factory=set)
    writes: set[Region] = field(default_factory=set)

    def read(self, regions: Sequence[Region]) -> None:
        self.reads |= {r for r in regions if not any(r.overlaps(w) for w in self.writes)}

    def write(self, regions: Sequence[Region]) -> None:
        self.writes |= set(regions)


def with_epilogues(calls: Sequence[Call], alive: set[int]) -> list[Call]:
    """``calls`` with pointwise operators taken into the product before them, where nobody else reads its result."""
    readers = Counter(region.storage for call in calls for region in call.reads)
    found: list[Call] = []
    for call in calls:
        before = found[-1] if found else None
        if before is not None and _is_epilogue(call, before, readers, alive):
            others = tuple(region for region in call.reads if region not in before.writes)
            found[-1] = replace(before, reads=before.reads + others, writes=call.writes)
        else:
            found.append(call)
    return found


def _is_epilogue(call: Call, before: Call, readers: Mapping[int, int], alive: set[int]) -> bool:
    if not before.heavy or not call.pointwise or len(before.writes) != 1:
        return False
    made = before.writes[0]
    in_place = made in call.writes
    private = readers[made.storage] == 1 and made.storage not in alive
    others = sum(region.bytes for region in call.reads if region != made)
    return made in call.reads and (in_place or private) and 100 * others <= made.bytes


def fused_traffic(calls: Sequence[Call], alive: set[int], epilogues: bool = False) -> int:
    """Bytes moved by ``calls`` in groups. ``alive``: storages that somebody holds when the work is over."""
    calls = with_epilogues(calls, alive) if epilogues else calls
    last_read = {region.storage: position for position, call in enumerate(calls) for region in call.reads}
    total, group = 0, _Group()

    def close(position: int) -> int:
        def kept(region: Region) -> bool:
            return region.storage in alive or last_read.get(region.storage, -1) >= position

        return _bytes(group.reads) + _bytes({region for region in group.writes if kept(region)})

    for position, call in enumerate(calls):
        if call.heavy:
            total += close(position) + call.bytes
            group = _Group()
        elif call.name in TWO_PASSES:
            group.read(call.reads)
            total += close(position)
            group = _Group(set(call.reads), set(call.writes))
        else:
            group.read(call.reads)
            group.write(call.writes)
    return total + close(len(calls))


def _bytes(regions: set[Region]) -> int:
    """Distinct bytes: regions that overlap another one counted before, in whole, are left out."""
    counted: list[Region] = []
    for region in sorted(regions, key=lambda r: -r.bytes):
        if not any(region.overlaps(other) for other in counted):
            counted.append(region)
    return sum(region.bytes for region in counted)
