"""Traffic that is left when neighbouring small operators run as one pass, the way a compiler fuses them.

Greedy, in the order of execution: pointwise operators, copies and normalisations join the group before them;
a matrix product, convolution or attention ends it. Of a group only what comes from outside is read, and only
what somebody reads later is written. Layer normalisation keeps its row at hand; group normalisation needs its
whole input before the first result, so it ends one group with its statistics and begins the next by reading
the input again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cogvideox.memory.region import Region

TWO_PASSES = {"native_group_norm"}


@dataclass(frozen=True)
class Call:
    """One operator: its name and kind, what it reads and writes, and whether it is too heavy to be fused."""

    name: str
    kind: str
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]
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
    readers: dict[int, int] = {}
    for call in calls:
        for region in call.reads:
            readers[region.storage] = readers.get(region.storage, 0) + 1
    found: list[Call] = []
    for call in calls:
        before = found[-1] if found else None
        if before is not None and _is_epilogue(call, before, readers, alive):
            others = tuple(region for region in call.reads if region not in before.writes)
            found[-1] = Call(before.name, before.kind, before.reads + others, call.writes, heavy=True)
        else:
            found.append(call)
    return found


def _is_epilogue(call: Call, before: Call, readers: dict[int, int], alive: set[int]) -> bool:
    if not before.heavy or call.kind != "pointwise" or len(before.writes) != 1:
        return False
    made = before.writes[0]
    in_place = made in call.writes
    private = readers.get(made.storage, 0) == 1 and made.storage not in alive
    others = sum(region.bytes for region in call.reads if region != made)
    return made in call.reads and (in_place or private) and 100 * others <= made.bytes


def fused_traffic(calls: Sequence[Call], alive: set[int], epilogues: bool = False) -> int:
    """Bytes moved by ``calls`` in groups. ``alive``: storages that somebody holds when the work is over."""
    calls = with_epilogues(calls, alive) if epilogues else calls
    last_read: dict[int, int] = {}
    for position, call in enumerate(calls):
        for region in call.reads:
            last_read[region.storage] = position
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
