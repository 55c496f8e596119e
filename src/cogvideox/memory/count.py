"""What a piece of work costs, counted without a device: FLOPs and peak memory.

The real code runs on tensors without memory (``device="meta"``) or on real ones, and every operator that reaches the
device is seen. ``benchmarks/traffic.py`` counts calls and bytes moved in the same way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from cogvideox.recompute import watch_saved

aten = torch.ops.aten
if aten._addmm_activation not in flop_registry:  # a product with its activation
    flop_registry[aten._addmm_activation] = flop_registry[aten.addmm]
SMALL_CONVOLUTION = 20_480


@dataclass(frozen=True)
class Cost:
    """FLOPs (a multiply-add is two) and bytes of a piece of work, what existed before (weights, inputs) not counted.

    peak: most bytes alive at once. output: bytes alive when the work ended.
    """

    flops: int
    peak: int
    output: int


def count(work: Callable[[], Any], on_cpu: bool = False) -> Cost:
    """Run ``work`` once, without gradients, and say what it cost.

    ``on_cpu`` adds to the peak what convolutions on a CPU take for themselves. On meta tensors attention counts as one
    fused kernel, as on a GPU: no score matrix is ever written.
    """
    counter = Counter(on_cpu)
    with torch.no_grad(), FusedAttention(), counter:
        result = work()
    cost = Cost(counter.flops, counter.peak, counter.held)
    del result  # alive until here, so that it was counted as output
    return cost


def kept(work: Callable[[], Any]) -> int:
    """Bytes that stay for the way back after ``work``, weights not counted: run it with gradients, on meta tensors."""
    held: dict[int, Any] = {}

    def note(tensor: Tensor) -> None:
        if not (tensor.is_leaf and tensor.requires_grad):
            storage = tensor.untyped_storage()
            held[storage._cdata] = storage

    with FusedAttention(), watch_saved(note):
        result = work()
    size = sum(storage.nbytes() for storage in held.values())
    del result  # what it holds was alive until here
    return size


def peak_with_gradients(work: Callable[[], Any], times: int = 1) -> int:
    """Most bytes alive at once while ``work`` runs, gradients included, which add up over ``times``.

    Run it on fake tensors (``FakeTensorMode``): they know casts and backward kernels, and take no memory. Attention
    counts as one fused kernel.
    """
    counter = Counter()
    with counter:
        for _ in range(times):
            work()
    return counter.peak


class Counter(TorchDispatchMode):
    """Sees every operator; of the storages only those made inside count as memory."""

    def __init__(self, on_cpu: bool = False) -> None:
        super().__init__()
        self.on_cpu = on_cpu
        self.flops = self.peak = self.held = 0
        self._known = WeakIdKeyDictionary()  # storages

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and guarding against it would load the compiler: seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question to a fake tensor, such as where it is
            return func(*args, **kwargs)
        if _is_composite(func):
            with self:  # inference mode hands on whole functions: take them apart
                return func.decompose(*args, **kwargs)
        given: list[Tensor] = []
        form = _form_of((args, kwargs), given)
        for tensor in given:
            self._known[tensor.untyped_storage()] = True
        result = _computed(func, args, kwargs, given, form)
        for tensor in (result,) if isinstance(result, Tensor) else tensors_in(result):
            self._hold(tensor.untyped_storage())
        packet = func._overloadpacket
        extra = cpu_workspace(packet, args, result) if self.on_cpu else 0
        self.peak = max(self.peak, self.held + extra)
        flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
        self.flops += flops
        self.observe(func, args, kwargs, result, flops)
        return result

    def observe(self, func: Any, args: Any, kwargs: Any, result: Any, flops: int) -> None:
        """Called after every operator, for counters of more than this."""

    def _hold(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self.held += size

        def free() -> None:
            self.held -= size

        weakref.finalize(storage, free).atexit = False


class FusedAttention(TorchFunctionMode):
    """Attention on meta tensors as the one kernel it is on a device; there torch would write all scores, as it does
    on a device too where tensors have not the four dimensions of its kernels."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fused = func is F.scaled_dot_product_attention and args and args[0].ndim == 4
        if fused and args[0].device.type == "meta":
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **rest: Any,
) -> Tensor:
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    bias = attn_mask if attn_mask.is_floating_point() else torch.empty_like(attn_mask, dtype=q.dtype)
    bias = bias.expand(*q.shape[:-1], k.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, False, dropout_p, is_causal, scale=scale
    )[0]


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in a nested value."""
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


_forms: dict[Any, list[tuple[Any, ...]]] = {}
_MOST_FORMS = 20_000


def _computed(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], form: Any) -> Any:
    """The operator's result; of one that was seen with such tensors without memory, empty ones of the same form, or the
    tensor itself that it writes to.

    ``tensors`` and ``form`` are those of the arguments (``_form_of``). torch asks Python functions for most of those
    forms, which takes a hundred times as long.
    """
    if not tensors or not all(type(t) is Tensor or type(t) is nn.Parameter for t in tensors):
        return func(*args, **kwargs)
    new, into_first = _makes_new(func), _writes_to_first(func)
    if not (new or into_first) or not all(tensor.is_meta for tensor in tensors):
        return func(*args, **kwargs)
    key = (func, form)
    if (forms := _forms.get(key)) is not None:
        if into_first:
            return args[0]
        found = [torch.empty_strided(*form[:2], dtype=form[2], device="meta") for form in forms]
        return found[0] if len(found) == 1 else tuple(found)
    before = _form(args[0]) if into_first else None
    result = func(*args, **kwargs)
    if into_first:
        if result is args[0] and _form(result) == before and len(_forms) < _MOST_FORMS:
            _forms[key] = []
        return result
    results = [result] if isinstance(result, Tensor) else list(result)
    if len(_forms) < _MOST_FORMS and all(isinstance(x, Tensor) and x.is_meta for x in results):
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        if not any(
            x.untyped_storage()._cdata in given for x in results
        ):  # some views do not say that they are
            _forms[key] = [_form(x) for x in results]
    return result


def _form_of(value: Any, tensors: list[Tensor]) -> Any:
    """What a nested value is, with the form of each tensor in it; these are added to ``tensors``."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _form(value)
    if isinstance(value, list | tuple):
        return tuple([_form_of(inner, tensors) for inner in value])
    if isinstance(value, dict):
        return tuple([(name, _form_of(inner, tensors)) for name, inner in value.items()])
    return type(value), value


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


@cache
def _makes_new(func: Any) -> bool:
    """Whether all that an operator returns is new: tensors that share no memory with what it was given."""
    schema = func._schema
    tensors = all(str(each.type) == "Tensor" and each.alias_info is None for each in schema.returns)
    return bool(schema.returns) and tensors and not schema.is_mutable


@cache
def _writes_to_first(func: Any) -> bool:
    """Whether an operator writes to its first argument and returns it, and changes neither its shape nor its memory."""
    schema, inplace_view = func._schema, torch.Tag.inplace_view in func.tags
    if inplace_view or len(schema.returns) != 1 or not schema.arguments:
        return False
    first, result = schema.arguments[0].alias_info, schema.returns[0].alias_info
    written = [each for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return (
        first is not None
        and result is not None
        and first.is_write
        and first.before_set == result.before_set
        and len(written) == 1
    )


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operator is only a function of others on every device (linear, matmul, reshape)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def cpu_workspace(packet: Any, args: Sequence[Any], result: Any) -> int:
    """Bytes that torch's convolutions take on a CPU besides input and output; a rule read off the library and measured.

    The autoencoder's convolutions go to oneDNN (``cogvideox.cpu_ops.conv3d``), the others when batch x channels x rows
    exceeds SMALL_CONVOLUTION (columns do not count) or the kernel is larger than 3x3. oneDNN works on a blocked copy of
    the input, of the output and of the weights. Smaller convolutions are unrolled into one matrix of input channels x
    kernel size x output positions; a kernel of one pixel needs none.
    """
    if packet is not aten.convolution:
        return 0
    x, weight = args[0], args[1]
    kernel = weight.shape[2:]
    transposed = bool(args[6])
    if (len(kernel) == 3 and not transposed) or _blocked(x, kernel):
        return x.nbytes + result.nbytes + 2 * weight.nbytes
    if prod(kernel) == 1:
        return 0
    return x.shape[1] * prod(kernel) * prod(result.shape[2:]) * x.element_size()


def _blocked(x: Tensor, kernel: Sequence[int]) -> bool:
    if tuple(kernel[-2:]) == (1, 1) and torch.get_num_threads() == 1 and x.shape[0] < 16:
        return False
    return x.shape[0] > 1 or min(kernel[-2:]) > 3 or prod(x.shape[:4]) > SMALL_CONVOLUTION
