"""Weights that live elsewhere and visit the device: one stage at a time, or block by block.

Applied from outside, by hooks, to a finished model whose weights lie in host memory; the networks know nothing
of it and give the same bits. For inference only: what happens to a visiting copy is forgotten when it leaves.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass
from torch.utils._pytree import tree_map

from cogvideox.memory.policy import Residence
from cogvideox.memory.weights import blocks_of
from cogvideox.model import CogVideoX

Slot = tuple[dict[str, Any], str]
"""Where a module keeps a weight or buffer: its table of them, and the name in it."""
SlotKey = tuple[int, str]
"""A slot as a dictionary key: the identity of the table, and the name."""
Pin = Callable[[Tensor], Callable[[], object]]
"""Page-locks the host memory of a tensor where it is; what it returns unlocks it."""
ALIGNED = 64
"""Bytes that each weight of a buffer begins at a multiple of."""


def offload(model: CogVideoX, device: torch.device | str, residence: Residence) -> CogVideoX:
    """Let ``model`` compute on ``device`` with its weights resident, one stage at a time, or streamed.

    Returns the model, whose weights must lie in host memory. On a CPU nothing can be saved by moving: the
    model is left as it is, with a warning.
    """
    device = torch.device(device)
    if residence == "resident":
        return model.to(device)
    if device.type == "cpu":
        warnings.warn(
            f"memory {residence!r} has no effect on a CPU: its memory is where the weights live", stacklevel=2
        )
        return model
    return install(model, device, stream=residence == "stream")


def install(model: CogVideoX, device: torch.device, stream: bool, pin: Pin | None = None) -> CogVideoX:
    """Hook a model so that its weights are copied to ``device`` while they are needed; returns it.

    On a CPU too, where ``offload`` does nothing: tests watch the copies there. ``pin`` page-locks the blocks that are
    streamed; None: ``page_lock`` for a GPU, nothing elsewhere.
    """
    if pin is None and device.type == "cuda":
        pin = page_lock
    group = OffloadGroup()
    halves = model.vae.encoder, model.vae.decoder  # small, and their stages differ in size: never streamed
    for network in stages_of(model):
        blocks = blocks_of(network) if stream and network not in halves else []
        streamer = BlockStreamer(blocks, device, pin).install() if blocks else None
        group.add(OffloadedModule(network, device, streamer))
    model.compute_device = device
    return model


def stages_of(model: CogVideoX) -> list[nn.Module]:
    """The networks that are never needed at the same time."""
    networks: list[nn.Module] = [model.transformer, model.vae.encoder, model.vae.decoder]
    return [*networks, model.text.model] if model.text is not None else networks


@dataclass
class OffloadedModule:
    """A network that visits a device; the blocks of ``stream`` come and go by themselves."""

    network: nn.Module
    device: torch.device
    stream: BlockStreamer | None = None
    home: dict[SlotKey, tuple[Slot, Tensor]] = field(default_factory=dict)

    def enter(self) -> None:
        """Copy the weights to the device that are not there; layers that left the network meanwhile go home."""
        apart = self.stream.blocks if self.stream is not None else ()
        wanted = {key_of(slot): slot for slot in slots(self.network, apart)}
        self._send_home([key for key in self.home if key not in wanted])
        seen: dict[Tensor, Tensor] = {}  # tied weights stay one
        for key, (table, name) in wanted.items():
            if key not in self.home:
                tensor = table[name]
                self.home[key] = (table, name), tensor
                if tensor not in seen:
                    seen[tensor] = like(tensor, tensor.detach().to(self.device, non_blocking=True))
                table[name] = seen[tensor]

    def leave(self) -> None:
        """Put the originals back; the copies are freed."""
        self._send_home(list(self.home))
        if self.stream is not None:
            self.stream.leave()

    def _send_home(self, keys: Sequence[SlotKey]) -> None:
        for key in keys:
            (table, name), tensor = self.home.pop(key)
            table[name] = tensor


@dataclass
class OffloadGroup:
    """Networks of which one at a time has its weights on the device."""

    members: list[OffloadedModule] = field(default_factory=list)

    def add(self, entering: OffloadedModule) -> None:
        """Whenever this network or a child of it is called, send the others home and bring its weights in."""
        self.members.append(entering)

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if not entering.home:
                for other in self.members:
                    if other is not entering:
                        other.leave()
                give_back(entering.device)
            entering.enter()
            return moved(args, entering.device), moved(kwargs, entering.device)

        for module in (entering.network, *entering.network.children()):
            module.register_forward_pre_hook(before, with_kwargs=True)


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
        if self.active is None:
            return
        for (table, name), home in self.visiting:
            table[name] = home
        if self.side is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self.free[self.held.index((self.active, len(self.visiting)))] = event
        self.active = None

    def _fetch(self, index: int, other_than: int | None) -> int:
        """The buffer that holds (or is being filled with) block ``index``, as it is now: layers may have left it."""
        block = index, len(self._homes(index))
        if block in self.held:
            return self.held.index(block)
        buffer = 1 - other_than if other_than is not None else 0
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


def give_back(device: torch.device) -> None:
    """Return to the device what torch's allocator holds and nobody uses: the next stage wants blocks of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
