"""Cheap activations that are computed again in the backward pass instead of kept, and arithmetic in place.

Normalised, modulated and rotated inputs and the GELU of the wide layer cost one pass over memory each, and are almost
half of what a transformer block would keep; computing them again gives the same bits. A function of this kind is marked
``@recomputable`` where it is defined, a layer's forward ``@recomputed``: the layer itself reads as plain arithmetic.
Whoever has rules of their own for activations (checkpointing of whole blocks, offloading, a compiler) takes over.

Without gradients nothing is kept, and marked functions may write over their input instead (``in_place``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.weak import WeakIdKeyDictionary

Params = ParamSpec("Params")
Result = TypeVar("Result")


def in_place() -> bool:
    """Whether functions may write results over their inputs: no gradients, and no compiler that plans memory itself."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def recomputable(function: Callable[Params, Tensor]) -> Callable[Params, Tensor]:
    """Mark a cheap function: in a ``recomputed`` forward its result is computed again in the backward pass, not kept.

    Its arguments are kept instead, unless they are results of this kind themselves. Tensors and modules are given by
    position; modules stand with the weights they have now. The function must not draw random numbers.
    """

    @wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Tensor:
        result = function(*args, **kwargs)
        if not torch.compiler.is_compiling() and (scope := _active_scope()) is not None:
            scope.add(result, function, args, kwargs)
        return result

    return call


def recomputed(forward: Callable[Params, Result]) -> Callable[Params, Result]:
    """Mark a layer's forward: results of ``recomputable`` functions inside are computed again in the backward pass.

    Does nothing without gradients, inside of ``keep_all``, in a compiler, under transforms of torch.func, and where
    others handle what autograd saves (checkpointing, offloading).
    """

    @wraps(forward)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        if torch.compiler.is_compiling() or not _may_recompute():
            return forward(*args, **kwargs)
        scope = _Scope()
        before = _scope.set(scope)
        try:
            with saved_tensors_hooks(scope, _unpack):
                return forward(*args, **kwargs)
        finally:
            _scope.reset(before)

    return call


@contextmanager
def keep_all() -> Iterator[None]:
    """Inside, every activation is kept as autograd saves it and nothing is computed again."""
    before = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(before)


@contextmanager
def watch_saved(note: Callable[[Tensor], object]) -> Iterator[None]:
    """Inside, ``note`` is called with every tensor that autograd really keeps: not with those computed again."""
    before = _note.set(note)
    try:
        with saved_tensors_hooks(_Scope(), _unpack):
            yield
    finally:
        _note.reset(before)


@dataclass(eq=False)
class Recompute:
    """How to compute a tensor again: a function, its arguments, and the autocast of that moment.

    Calling it computes once for everything that one backward pass asks for, then lets go of the result.
    """

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: Callable[[], AbstractContextManager]
    dtype: torch.dtype
    numel: int
    saved: int = 0  # tensors that autograd saved as views of the result
    asked: int = 0  # how many of them have been asked for
    result: Tensor | None = field(default=None, repr=False)

    def __call__(self) -> Tensor:
        result = self.compute() if self.result is None else self.result
        self.asked += 1
        self.result = None if self.asked % self.saved == 0 else result
        return result

    def compute(self) -> Tensor:
        """The bits of the forward pass: with gradients on, so that nothing is done in place, and under its autocast."""
        args = [arg.compute() if isinstance(arg, _View) else arg for arg in self.args]
        with torch.enable_grad(), self.autocast():
            return self.function(*args, **self.kwargs).detach()


class _View(NamedTuple):
    """A tensor that is computed again: its recipe, and how it lies in the result's memory."""

    recipe: Recompute
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt

    def compute(self) -> Tensor:
        return self.recipe.compute().as_strided(self.size, self.stride, self.offset)


class _Scope:
    """The recipes of one forward, by the memory of their results; as a hook, what autograd keeps of a saved tensor.

    Hooks live as long as the graph, so the memory itself is not held: a recipe goes when its result does.
    """

    def __init__(self) -> None:
        self.recipes = WeakIdKeyDictionary()

    def __call__(self, saved: Tensor) -> Tensor | _View:
        view = self._view(saved)
        if view is not None:
            view.recipe.saved += 1
            return view
        if (note := _note.get()) is not None:
            note(saved)
        return saved

    def add(
        self, result: Tensor, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Remember how ``result`` was computed."""
        autocast = _autocast(result.device.type)
        held = tuple(self._hold(arg) for arg in args)
        recipe = Recompute(function, held, kwargs, autocast, result.dtype, result.numel())
        self.recipes[result.untyped_storage()] = recipe

    def _hold(self, arg: Any) -> Any:
        """An argument as a recipe holds it: without its graph, and as a recipe where it has one."""
        if isinstance(arg, nn.Module):
            weights = {name: weight.detach() for name, weight in arg.named_parameters()}
            return lambda *inputs: functional_call(arg, weights, inputs)
        if not isinstance(arg, Tensor):
            return arg
        return self._view(arg) or arg.detach()

    def _view(self, x: Tensor) -> _View | None:
        recipe = self.recipes.get(x.untyped_storage()) if self.recipes else None
        if recipe is None or recipe.dtype != x.dtype or recipe.numel < x.numel():
            return None
        return _View(recipe, x.size(), x.stride(), x.storage_offset())


def _unpack(kept: Tensor | _View) -> Tensor:
    return kept.recipe().as_strided(*kept[1:]) if isinstance(kept, _View) else kept


def _may_recompute() -> bool:
    if not torch.is_grad_enabled() or not _enabled.get():
        return False
    hooks_work = torch._C._autograd._saved_tensors_hooks_is_enabled  # type: ignore[attr-defined]  # not in torch's stubs
    if not hooks_work():  # inside of a transform of torch.func
        return False
    # only the last hooks are told what autograd saves: ours would hide theirs
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return top is None or isinstance(top[0], _Scope)


def _active_scope() -> _Scope | None:
    """The scope whose hooks autograd asks now."""
    scope = _scope.get()
    if scope is None or not torch.is_grad_enabled():
        return None
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return scope if top is not None and top[0] is scope else None


def _autocast(device: str) -> Callable[[], AbstractContextManager]:
    """Makes a context with this moment's autocast; in the backward pass there is none."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, on = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=on, cache_enabled=False)


_enabled = ContextVar("enabled", default=True)
_scope: ContextVar[_Scope | None] = ContextVar("scope", default=None)
_note: ContextVar[Callable[[Tensor], object] | None] = ContextVar("note", default=None)
