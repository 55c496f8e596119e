"""What a piece of work costs, counted without a device: calls, bytes moved, FLOPs, peak memory.

The real code runs on tensors without memory (``device="meta"``) or on real ones, and every operator that
reaches the device is seen. Views cost nothing; everything else reads its inputs and writes its outputs once.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from cogvideox.memory.fuse import Call, fused_traffic
from cogvideox.memory.region import Region
from cogvideox.recompute import watch_saved

aten = torch.ops.aten
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.uniform_}
KINDS = {  # everything else is called pointwise
    "matrix": {aten.mm, aten.addmm, aten.bmm, aten.baddbmm},
    "convolution": {aten.convolution},
    "attention": {
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_efficient_attention,
    },
    "norm": {aten.native_layer_norm, aten.native_group_norm},
    "copy": {
        aten.cat,
        aten.stack,
        aten.clone,
        aten.copy_,
        aten._to_copy,
        aten.constant_pad_nd,
        aten.upsample_nearest2d,
        aten.upsample_nearest3d,
    },
}


@dataclass(frozen=True)
class Cost:
    """What ``count`` found. Bytes and FLOPs; a multiply-add is two FLOPs.

    calls: operators that are not views. traffic: bytes read and written by them, one by one. fused: the same
    when neighbouring pointwise operators, copies and normalisations become one pass; epilogue: when, besides, what
    is pointwise on the result of a product alone runs inside that product. peak: most bytes alive
    at once, what existed before (weights, inputs) not counted. output: bytes alive when the work ended.
    """

    calls: int
    traffic: int
    fused: int
    epilogue: int
    flops: int
    peak: int
    output: int
    by_kind: dict[str, int]
    calls_by_kind: dict[str, int]


Workspace = Callable[[Any, Sequence[Any], Any], int]
"""Bytes that an operator (packet, arguments, result) takes while it runs, besides its tensors."""


def count(work: Callable[[], Any], fuse: bool = True, workspace: Workspace | None = None) -> Cost:
    """Run ``work`` once, without gradients, and say what it cost. ``fuse`` false leaves ``fused`` at 0.

    ``workspace`` adds to the peak what the kernels of a device take for themselves. On meta tensors attention
    counts as one fused kernel, as on a GPU: no score matrix is ever written.
    """
    counter = _Counter(workspace)
    with torch.no_grad(), FusedAttention(), counter:
        result = work()
    traffic, calls = Counter[str](), Counter[str]()
    for call in counter.calls:
        traffic[call.kind] += call.bytes
        calls[call.kind] += 1
    found = Cost(
        calls=len(counter.calls),
        traffic=sum(traffic.values()),
        fused=fused_traffic(counter.calls, counter.alive()) if fuse else 0,
        epilogue=fused_traffic(counter.calls, counter.alive(), epilogues=True) if fuse else 0,
        flops=counter.flops,
        peak=counter.peak,
        output=counter.held,
        by_kind=dict(traffic),
        calls_by_kind=dict(calls),
    )
    del result  # alive until here, so that it was counted as output
    return found


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
    counter = _Counter()
    with counter:
        for _ in range(times):
            work()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Sees every operator. A storage gets a number when first seen; only those made inside count as memory."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__()
        self.workspace = workspace
        self.calls: list[Call] = []
        self.flops = self.peak = self.held = 0
        self._numbers = WeakIdKeyDictionary()
        self._outside: set[int] = set()
        self._next = 0

    def alive(self) -> set[int]:
        """Numbers of the storages that live on: made before the work, or still held."""
        return self._outside | set(self._numbers.values())

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
        inputs = list(_tensors((args, kwargs)))
        reads = [self._region(tensor, made=False) for tensor in inputs]
        result = func(*args, **kwargs)
        outputs = list(_tensors(result)) or list(_overwritten(func, args))
        made = [self._region(tensor, made=True) for tensor in outputs]
        packet = func._overloadpacket
        extra = self.workspace(packet, args, result) if self.workspace is not None else 0
        self.peak = max(self.peak, self.held + extra)
        if packet in ALLOCATIONS or not outputs or _is_view(func, made, reads):
            return result
        if packet in OVERWRITES or "out" in kwargs:
            written = {(region.storage, region.start) for region in made}
            reads = [region for region in reads if (region.storage, region.start) not in written]
        flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
        self.flops += flops
        self.calls.append(Call(packet.__name__, _kind(packet), tuple(reads), tuple(made), flops > 0))
        return result

    def _region(self, tensor: Tensor, made: bool) -> Region:
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            number = self._numbers[storage] = self._next
            self._next += 1
            if made:
                self._hold(storage)
            else:
                self._outside.add(number)
        return Region.of(tensor, number)

    def _hold(self, storage: Any) -> None:
        size = storage.nbytes()
        self.held += size

        def free() -> None:
            self.held -= size

        weakref.finalize(storage, free).atexit = False


def _overwritten(func: Any, args: Any) -> Iterator[Tensor]:
    """What an operator that returns nothing has written to."""
    for told, given in zip(func._schema.arguments, args, strict=False):
        if told.alias_info is not None and told.alias_info.is_write:
            yield from _tensors(given)


class FusedAttention(TorchFunctionMode):
    """Attention on meta tensors as the one kernel it is on a device; there torch would write all scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args and args[0].device.type == "meta":
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
    if q.ndim > 4:  # kernels know batch and heads; what else stands in front is more of the batch
        front = q.shape[:-3]
        q, k, v = (each.flatten(0, -4) for each in (q, k, v))
        rows = (
            None
            if attn_mask is None
            else attn_mask.expand(*front, *q.shape[1:-1], k.shape[-2]).flatten(0, -4)
        )
        return _attention(q, k, v, rows, dropout_p, is_causal, scale).unflatten(0, front)
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    bias = attn_mask if attn_mask.is_floating_point() else torch.empty_like(attn_mask, dtype=q.dtype)
    bias = bias.expand(*q.shape[:-1], k.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, False, dropout_p, is_causal, scale=scale
    )[0]


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operator is only a function of others on every device (linear, matmul, reshape)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _is_view(func: Any, made: list[Region], reads: list[Region]) -> bool:
    """Nothing is written: the schema says so, or all results lie in the memory of the inputs."""
    if func._schema.is_mutable:
        return False
    given = {region.storage for region in reads}
    return bool(made) and all(region.storage in given for region in made)


def _kind(packet: Any) -> str:
    return next((kind for kind, packets in KINDS.items() if packet in packets), "pointwise")
