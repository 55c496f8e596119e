"""Blocks of weights that visit two buffers on the device in turn, from host memory or from their files."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass
from torch.utils._pytree import tree_map

from cogvideox.files.stored import ALIGNED, Stored, stored_of

Slot = tuple[dict[str, Any], str]
"""Where a module keeps a weight or buffer: its table of them, and the name in it."""
SlotKey = tuple[int, str]
"""A slot as a dictionary key: the identity of the table, and the name."""
Pin = Callable[[Tensor], Callable[[], object]]
"""Page-locks the host memory of a tensor where it is; what it returns unlocks it."""


class BlockStreamer:
    """Blocks in host memory (pinned for a GPU) that visit two buffers on the device in turn.

    A block is used from the first call of one of its layers until a layer of another block is called. While it
    computes, the next is copied on a stream of its own; the last is followed by the first, which the next step
    will ask for. Each block's weights are laid end to end into one piece of memory, which ``pin`` locks until the
    blocks are let go.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, pin: Pin | None = None) -> None:
        self.blocks, self.device, self.pin = list(blocks), device, pin
        self.unpin: list[Callable[[], object]] = []
        weakref.finalize(self, _call_all, self.unpin).atexit = False
        self.homes: dict[SlotKey, tuple[Slot, Tensor]] = {}
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.active: int | None = None
        self.visiting: list[tuple[Slot, Tensor]] = []
        self._empty()
        for index in range(len(self.blocks)):
            self._homes(index)

    def install(self) -> BlockStreamer:
        """Hook every layer of every block."""
        for index, block in enumerate(self.blocks):

            def before(module: nn.Module, args: Any, kwargs: Any, index: int = index) -> Any:
                if self.active == index:
                    return None
                self.use(index)
                return moved(args, self.device), moved(kwargs, self.device)

            for layer in block.modules():
                layer.register_forward_pre_hook(before, with_kwargs=True)
        return self

    def use(self, index: int) -> None:
        """Let block ``index`` compute on the device, and send for the one after it."""
        self._release()
        buffer = self._fetch(index, other_than=None)
        if self.side is not None:
            torch.cuda.current_stream(self.device).wait_event(self.arrived[buffer])
        self.visiting = self._homes(index)
        for number, ((table, name), home) in enumerate(self.visiting):
            table[name] = self.buffers[buffer][number, home.shape]
        self.active = index
        self._fetch((index + 1) % len(self.blocks), other_than=buffer)

    def leave(self) -> None:
        """Everything home, the buffers freed."""
        self._release()
        if self.side is not None:
            # nothing computes with the buffers any more, and no copy on its way lands in memory given to others
            self.side.wait_stream(torch.cuda.current_stream(self.device))
            self.side.synchronize()
        self._empty()

    def _empty(self) -> None:
        self.buffers: list[dict[tuple[int, Any], Tensor]] = [{}, {}]
        self.held: list[tuple[int, int] | None] = [None, None]  # block, and how many slots it had
        self.arrived: list[Any] = [None, None]
        self.free: list[Any] = [None, None]

    def _release(self) -> None:
        """Give the active block its own weights back; its buffer may be refilled when the device is done with it."""
        for (table, name), home in self.visiting:  # also those of a block that was interrupted on its way in
            table[name] = home
        if self.active is not None and self.side is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self.free[self.held.index((self.active, len(self.visiting)))] = event
        self.active, self.visiting = None, []

    def _fetch(self, index: int, other_than: int | None) -> int:
        """The buffer that holds (or is being filled with) block ``index``, as it is now: layers may have left it."""
        block = index, len(self._homes(index))
        if block in self.held:
            return self.held.index(block)
        buffer = 1 - other_than if other_than is not None else 0
        self.held[buffer] = None  # until it is filled: an interrupt may come between
        if self.side is None:
            self._fill(buffer, index)
        else:
            with torch.cuda.stream(self.side):
                if self.free[buffer] is not None:
                    self.side.wait_event(self.free[buffer])
                self._fill(buffer, index)
                self.arrived[buffer] = torch.cuda.Event()
                self.arrived[buffer].record(self.side)
        self.held[buffer] = block
        return buffer

    def _fill(self, buffer: int, index: int) -> None:
        kept = {}
        for number, (_, home) in enumerate(self._homes(index)):
            key = (number, home.shape)
            copy = self.buffers[buffer].pop(key, None)
            if copy is None or is_traceable_wrapper_subclass(copy):  # low-bit tensors cannot be filled again
                del copy  # its memory is what the new one takes
                copy = like(home, home.detach().to(self.device, non_blocking=True, copy=True))
            else:
                copy.detach().copy_(home.detach(), non_blocking=True)
            kept[key] = copy
        self.buffers[buffer] = kept

    def _homes(self, index: int) -> list[tuple[Slot, Tensor]]:
        """Where the weights of a block are kept while they are at home."""
        held = list(slots(self.blocks[index]))
        new = [slot for slot in held if key_of(slot) not in self.homes]
        if new and self.pin is not None:
            self.unpin.append(self.pin(lay_together(new)))
        for table, name in new:
            self.homes[key_of((table, name))] = (table, name), table[name]
        return [self.homes[key_of(slot)] for slot in held]


class BlockReader(BlockStreamer):
    """Blocks in files that visit two buffers in turn: while one computes, a thread reads the next.

    On a CPU the buffers are the memory that is computed with; for a GPU the thread reads into one piece of host memory,
    which ``pin`` locks, and copies from there. What a thread meets (a file that changed) is raised when the block is
    asked for. A buffer holds a block from when it was read, not before: whoever waits may be interrupted.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, pin: Pin | None = None) -> None:
        super().__init__(blocks, device)
        self.lock = pin
        self.thread = ThreadPoolExecutor(1, "read weights")
        self.reading: tuple[Future[None], int, tuple[int, int]] | None = None  # into which buffer which block
        self.memory: list[Tensor | None] = [None, None]

    def use(self, index: int) -> None:
        """Let block ``index`` compute on the device, and begin to read the one after it."""
        self._join()
        super().use(index)

    def leave(self) -> None:
        """Forget what was read; memory that is locked is kept for the next time."""
        self._join()
        super().leave()
        if self.side is None:
            self.memory = [None, None]

    def _join(self) -> None:
        """Wait for the thread. Raises what it met."""
        if self.reading is None:
            return
        future, buffer, block = self.reading
        error = future.exception()
        self.reading = None
        if error is not None:
            self._release()
            self._empty()  # what was to be read is in no buffer
            raise error
        self.held[buffer] = block

    def _fetch(self, index: int, other_than: int | None) -> int:
        homes = self._homes(index)
        if (block := (index, len(homes))) in self.held:
            return self.held.index(block)
        buffer = 1 - other_than if other_than is not None else 0
        self.held[buffer] = None
        self.reading = self.thread.submit(self._read, buffer, homes), buffer, block
        if other_than is None:
            self._join()
        return buffer

    def _read(self, buffer: int, homes: Sequence[tuple[Slot, Tensor]]) -> None:
        """In the thread: fill a buffer, which is free when it returns or, on a GPU, when its event says so."""
        pieces = self._views(buffer if self.side is None else 0, homes)
        values = [home.detach() for _, home in homes]
        for piece, (number, stored) in pieces:
            values[number] = stored.read_into(piece)
        if self.side is None:
            self._hold(buffer, homes, values)
            return
        with torch.cuda.stream(self.side):
            if self.free[buffer] is not None:
                self.side.wait_event(self.free[buffer])
            self._hold(buffer, homes, values)
            self.arrived[buffer] = torch.cuda.Event()
            self.arrived[buffer].record(self.side)
        self.side.synchronize()  # before the host memory is filled again

    def _hold(self, buffer: int, homes: Sequence[tuple[Slot, Tensor]], values: Sequence[Tensor]) -> None:
        """Put values into a buffer: as they are on a CPU, as copies on a device."""
        kept = {}
        for number, ((_, home), value) in enumerate(zip(homes, values, strict=True)):
            copy = self.buffers[buffer].get((number, home.shape)) if self.side is not None else None
            if copy is None or is_traceable_wrapper_subclass(copy):
                copy = like(home, value.to(self.device, non_blocking=True))
            else:
                copy.detach().copy_(value, non_blocking=True)
            kept[number, home.shape] = copy
        self.buffers[buffer] = kept

    def _views(
        self, buffer: int, homes: Sequence[tuple[Slot, Tensor]]
    ) -> list[tuple[Tensor, tuple[int, Stored]]]:
        """For each weight that is in a file its piece of the host memory, its number and where it is."""
        stored = [(number, found) for number, (_, home) in enumerate(homes) if (found := stored_of(home))]
        sizes = [-(-found.held // ALIGNED) * ALIGNED for _, found in stored]
        memory = self.memory[buffer]
        if memory is None or memory.nbytes < sum(sizes):
            memory = self.memory[buffer] = torch.empty(sum(sizes), dtype=torch.uint8)
            if self.lock is not None:
                self.unpin.append(self.lock(memory))
        return list(zip(memory[: sum(sizes)].split(sizes), stored, strict=True))


def page_lock(memory: Tensor) -> Callable[[], object]:
    """Lock host memory where it is, so that a GPU copies from it while it computes; returns what undoes it.

    torch's own pinned memory comes in powers of two (1.77 times the weights of the 5B) and is never given back. Where
    the computer refuses, a warning says so, and copies wait for the computation.
    """
    runtime = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)):
        warnings.warn(
            f"{memory.nbytes / 1e6:.0f} MB of host memory could not be page-locked: streaming is slower",
            stacklevel=2,
        )
        return lambda: None

    def unlock() -> None:
        torch.cuda.synchronize()
        runtime.cudaHostUnregister(memory.data_ptr())

    return unlock


def lay_together(held: Sequence[Slot]) -> Tensor:
    """Move the tensors of these slots into one new piece of memory, which is returned; they keep their values."""
    whole = {id(table[name]): table[name] for table, name in held}  # tied weights stay one
    sizes = [-(-x.nbytes // ALIGNED) * ALIGNED for tensor in whole.values() for x in _plain(tensor)]
    memory = torch.empty(sum(sizes), dtype=torch.uint8)
    pieces = iter(memory.split(sizes))

    def lay(x: Tensor) -> Tensor:
        if is_traceable_wrapper_subclass(x):
            return transform_subclass(x, lambda _, inner: lay(inner))
        return next(pieces)[: x.nbytes].view(x.dtype).view(x.shape).copy_(x)

    laid = {key: like(tensor, lay(tensor.detach())) for key, tensor in whole.items()}
    for table, name in held:
        table[name] = laid[id(table[name])]
    return memory


def _plain(tensor: Tensor) -> list[Tensor]:
    """The tensors that a low-bit one is made of; a plain one itself."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [each for name in names for each in _plain(getattr(tensor, name))]


def _call_all(functions: Sequence[Callable[[], object]]) -> None:
    for function in functions:
        function()


def slots(network: nn.Module, apart: Sequence[nn.Module] = ()) -> Iterator[Slot]:
    """Where the weights and buffers of a network are kept: (table, name), those of ``apart`` left out."""
    skipped = {id(module) for block in apart for module in block.modules()}
    for module in network.modules():
        if id(module) not in skipped:
            for table in (module._parameters, module._buffers):
                yield from ((table, name) for name, tensor in table.items() if tensor is not None)


def key_of(slot: Slot) -> SlotKey:
    """The slot as a key: a module keeps its tables as long as it lives."""
    return id(slot[0]), slot[1]


def like(original: Tensor, copy: Tensor) -> Tensor:
    """``copy`` as a parameter when the original is one."""
    return nn.Parameter(copy, requires_grad=False) if isinstance(original, nn.Parameter) else copy


def moved(values: Any, device: torch.device) -> Any:
    """All tensors among ``values`` on the device."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)
