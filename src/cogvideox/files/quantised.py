"""A weight in few bits that counts as a plain one: numbers are made of it where it is used, and forgotten.

torch sees a tensor of the weight's shape and precision. What is kept are its parts (packed numbers, scales), which move
between devices as they are; every operation is given the numbers instead, so a layer needs its weight in full precision
for as long as its product takes. Nothing of it can be written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from cogvideox.errors import CheckpointError

PIECE = 2**22
"""Numbers that are made at once, in float32 and with what their format takes beside: at most 64 MB."""


class WeightFormat(Protocol):
    """How numbers are made of the parts of a weight; a frozen value."""

    @property
    def name(self) -> str:
        """What the format is called where it comes from, such as Q4_0 or nf4."""

    def decode(self, inner: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The numbers in float32, ``shape``, on the device of the parts."""

    def slice_rows(
        self, inner: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Mapping[str, Tensor] | None:
        """The parts of rows ``start`` to before ``stop``; None where they cannot be told apart."""


class QuantisedTensor(Tensor):
    """A weight of ``shape`` and ``dtype`` whose numbers ``form`` makes of ``parts``.

    An operation that is given it computes with ``dequantize()`` instead; copies between devices move the parts. Raises
    CheckpointError where something would write into it.
    """

    form: WeightFormat

    @staticmethod
    def __new__(
        cls: type[Self],
        form: WeightFormat,
        inner: Mapping[str, Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Self:
        device = next(iter(inner.values())).device
        made: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)  # type: ignore[attr-defined]
        made.form = form
        vars(made).update({f"part_{name}": part for name, part in inner.items()})
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch advises

    @property
    def inner_tensors(self) -> dict[str, Tensor]:
        """The tensors that it is kept as, by the names that its format gives them."""
        return {name.removeprefix("part_"): part for name, part in vars(self).items() if "part_" in name}

    def dequantize(self) -> Tensor:  # type: ignore[override]  # torch's own takes no such tensor
        """The numbers, a plain tensor of this shape and precision, made some rows at a time."""
        shape, inner = tuple(self.shape), self.inner_tensors
        step = max(1, PIECE * shape[0] // max(self.numel(), 1))
        spans = [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
        cut = [self.form.slice_rows(inner, shape, *span) for span in spans] if len(spans) > 1 else [None]
        if any(piece is None for piece in cut):
            return self.form.decode(inner, shape).to(self.dtype)
        numbers = torch.empty(shape, dtype=self.dtype, device=self.device)
        for (start, stop), piece in zip(spans, cut, strict=True):
            assert piece is not None
            numbers[start:stop] = self.form.decode(piece, (stop - start, *shape[1:]))
        return numbers

    def with_inner(self, change: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Self:
        """The same weight with every part changed so, to be computed in ``dtype`` (None: as it is)."""
        inner = {name: change(part) for name, part in self.inner_tensors.items()}
        return type(self)(self.form, inner, tuple(self.shape), dtype or self.dtype)

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes contents to show
        return f"QuantisedTensor({self.form.name}, {list(self.shape)}, {self.dtype}, {self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return [f"part_{name}" for name in self.inner_tensors], (self.form, tuple(self.shape), self.dtype)

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], context: Any, size: Any, stride: Any) -> Self:
        form, shape, dtype = context
        return cls(form, {name.removeprefix("part_"): each for name, each in inner.items()}, shape, dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub lacks the class
        cls, op: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        settings = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, cls):
            if op in _SAME:
                return first.with_inner(op)
            wanted = settings.get("dtype") or first.dtype
            if op is torch.ops.aten._to_copy.default and wanted == first.dtype:
                moved = {key: value for key, value in settings.items() if key in ("device", "non_blocking")}
                return first.with_inner(lambda part: op(part, **moved))
            if op._schema.is_mutable:
                raise CheckpointError(
                    f"{op.__name__}: weights in few bits ({first.form.name}) are not written to"
                )
        plain = tree_map(lambda each: each.dequantize() if isinstance(each, cls) else each, (args, settings))
        return op(*plain[0], **plain[1])


_SAME = (
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
)
"""Operations that give the same weight, each part by itself."""


def dense(tensor: Tensor) -> Tensor:
    """The tensor as plain numbers."""
    return tensor.dequantize() if isinstance(tensor, QuantisedTensor) else tensor
