"""Activations that are made again on the way back instead of kept: those that cost one pass over memory.

Normalised, modulated and turned inputs and the GELU of the wide layer are almost half of what a transformer block would
hold; making them again gives the same bits. What wraps whole blocks (recomputation, a compiler) decides for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

Again = Callable[[], Tensor]
Note = Callable[[Tensor], object]


def made(make: Callable[..., Tensor], *inputs: Tensor | nn.Module) -> tuple[Tensor, Again]:
    """``make(*inputs)``, and a function that makes it again; that holds the inputs only where there are gradients.

    A module among the inputs stands for itself with the weights it has now, whatever it is given until then.
    """
    wanted = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    held = [_held(one) for one in inputs] if wanted else []
    return make(*inputs), partial(make, *held)


def _held(one: Any) -> Any:
    if isinstance(one, nn.Module):
        weights = {name: weight.detach() for name, weight in one.named_parameters()}
        return lambda *args: functional_call(one, weights, args)
    return one.detach() if isinstance(one, Tensor) else one


@contextmanager
def remade(x: Tensor, again: Again) -> Iterator[None]:
    """What is saved of ``x`` in here is ``again``, which gives the same values from what is kept anyway.

    Calls nest: inside, ``x`` of the outer calls is remade too. This does nothing without gradients, in a compiler,
    under transforms of torch.func, and where others keep what is saved in their way (checkpointing, offloading).
    """
    off = not torch.is_grad_enabled() or torch.compiler.is_compiling() or not _on.get() or _others_keep()
    place = None if off else _storage(x)
    if place is None:
        yield
        return
    # the hooks live as long as the graph, so they must not hold x itself
    source = _Source(place, x.numel(), x.dtype, again, _autocast(x.device.type))
    before = _sources.set((*_sources.get(), source))
    try:
        with saved_tensors_hooks(_Pack(_sources.get()), _unpack):
            yield
    finally:
        _sources.reset(before)


@contextmanager
def everything_kept() -> Iterator[None]:
    """Nothing is remade in here: for whoever keeps, or throws away, activations by rules of its own."""
    before = _on.set(False)
    try:
        yield
    finally:
        _on.reset(before)


@contextmanager
def watched(note: Note) -> Iterator[None]:
    """``note`` is called with every tensor that autograd keeps in here, inside of ``remade`` and outside."""

    before = _note.set(note)
    try:
        with saved_tensors_hooks(_Pack(()), _unpack):
            yield
    finally:
        _note.reset(before)


@dataclass
class _Source:
    """Knows a tensor by its storage; makes it once for all that one way back asks for, then lets go of it."""

    place: int
    numel: int
    dtype: torch.dtype
    again: Again
    autocast: Callable[[], AbstractContextManager]
    views: int = 0
    asked: int = 0
    made: Tensor | None = field(default=None, repr=False)

    def holds(self, saved: Tensor) -> bool:
        same = saved.dtype == self.dtype and saved.numel() <= self.numel
        return same and _storage(saved) == self.place

    def __call__(self) -> Tensor:
        if self.made is None:
            with (
                torch.enable_grad(),
                everything_kept(),
                self.autocast(),
            ):  # as on the way there: the same bits
                self.made = self.again().detach()
        made, self.asked = self.made, self.asked + 1
        if self.asked % self.views == 0:
            self.made = None
        return made


class _View(NamedTuple):
    """How a saved tensor lay in the storage of what is remade."""

    source: _Source
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _others_keep() -> bool:
    """Whether somebody else's hooks are told what autograd saves; only the last ones are, so ours would hide theirs."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return top is not None and not isinstance(top[0], _Pack)


def _storage(x: Tensor) -> int | None:
    """What tells the memory of a tensor from others; None where it has none of its own (torch.func)."""
    try:
        return x.untyped_storage()._cdata
    except NotImplementedError:
        return None


def _autocast(device: str) -> Callable[[], AbstractContextManager]:
    """Makes a context with this moment's autocast; on the way back there is none."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, on = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=on, cache_enabled=False)


_on = ContextVar("on", default=True)
_sources: ContextVar[tuple[_Source, ...]] = ContextVar("sources", default=())
_note: ContextVar[Note | None] = ContextVar("note", default=None)


class _Pack(NamedTuple):
    sources: tuple[_Source, ...]

    def __call__(self, saved: Tensor) -> Tensor | _View:
        for source in self.sources:
            if source.holds(saved):
                source.views += 1
                return _View(source, saved.size(), saved.stride(), saved.storage_offset())
        if (note := _note.get()) is not None:
            note(saved)
        return saved


def _unpack(kept: Tensor | _View) -> Tensor:
    return kept.source().as_strided(*kept[1:]) if isinstance(kept, _View) else kept
