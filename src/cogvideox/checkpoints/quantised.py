"""Quantised weights as the tensors of a network: which formats a file holds, and where the parts of each weight are.

| in the file, beside a layer M | what it is |
|---|---|
| ``M.Q4_0_qweight`` (Q8_0, Q4_K ...) | llama.cpp's blocks in safetensors |
| types of a GGUF container | the same blocks in llama.cpp's own file |
| ``M.weight`` in fp8 | one byte a weight, without a scale |
| ``M.weight`` in fp8, ``M.scale_weight`` or ``M.weight_scale`` | the same with a scale |
| ``M.weight.absmax``, ``M.weight.quant_state.bitsandbytes__nf4`` | bitsandbytes in 4 bits |
| ``M.SCB`` | bitsandbytes int8 |
| ``M._weight_qdata``, and what it is in the metadata | torchao int8, fp8, int4 |
| ``M.weight._data``, ``M.weight._scale`` | quanto int8, fp8 |

Nothing is unpickled, and no library that wrote such a file is needed.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cogvideox.checkpoints.quantised_formats import Int4Groups, Scaled, Table
from cogvideox.checkpoints.tensors import TensorEntry, Tensors, dtypes_of, shapes_of
from cogvideox.errors import CheckpointError, few
from cogvideox.files import short
from cogvideox.files.gguf_blocks import SIZES, GgufBlocks
from cogvideox.files.quantised import QuantisedTensor, WeightFormat
from cogvideox.files.stored import Stored, StoredQuantised, StoredTensor
from cogvideox.spec import any_block

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
QWEIGHT = "_qweight"
BNB_STATE = ".quant_state.bitsandbytes__"
SCALE_NAMES = (".scale_weight", ".weight_scale")
IGNORED = (".scale_input", ".input_scale", ".output_scale")
"""Scales for products in 8 bits, which are computed in full here; and quanto's."""
ROUNDED_ACTIVATIONS = ("act_quant_kwargs", "activation_quantization")
"""What torchao says of weights whose layers round their activations; here products are computed in full."""


@dataclass(frozen=True)
class QuantisedWeight:
    """One weight: how numbers are made of it, the names of its parts in the file, and the shape it has."""

    form: WeightFormat
    inner: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    """The precision that the file names for it."""


class QuantisedTensors(Tensors):
    """The tensors of a network some of which are quantised: under the network's names, in its shapes.

    Floats count as ``dtype``, the precision to compute in where none is asked for; those that are not quantised are
    read as they are stored. ``weights`` are those in few bits.
    """

    def __init__(
        self, raw: Tensors, weights: Mapping[str, QuantisedWeight], unused: frozenset[str], dtype: torch.dtype
    ) -> None:
        self.raw, self.weights, self.dtype = raw, weights, dtype
        consumed = unused | {part for weight in weights.values() for part in weight.inner.values()}
        entries = {}
        for name, entry in raw.entries.items():
            if name not in consumed:
                kind = dtype if entry.dtype.is_floating_point else entry.dtype
                entries[name] = TensorEntry(entry.shape, kind, entry.file)
        for name, weight in weights.items():
            file = raw.entries[next(iter(weight.inner.values()))].file
            entries[name] = TensorEntry(weight.shape, dtype, file)
        super().__init__(entries, raw.metadata)
        self.numbers = False

    def as_numbers(self, dtype: torch.dtype | None = None) -> QuantisedTensors:
        """The same, but a tensor that is asked for comes as plain numbers of ``dtype`` (None: its own)."""
        plain = copy.copy(self)
        plain.numbers, plain.dtype = True, dtype or self.dtype
        return plain

    @property
    def formats(self) -> dict[str, int]:
        """How many weights are in each format, and how many tensors beside them in each precision."""
        raw = self.raw.entries
        kinds = Counter(
            self.weights[name].form.name
            if name in self.weights
            else str(raw[name].dtype).removeprefix("torch.")
            for name in self.entries
        )
        return dict(kinds.most_common())

    @property
    def nbytes(self) -> int:
        """Bytes of all of them as they are stored."""
        return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in self.raw.entries.values())

    @property
    def stored_bytes(self) -> dict[str, int]:
        """Bytes that each quantised weight takes, those of all blocks under one name, the largest of them."""
        entries, found = self.raw.entries, dict[str, int]()
        for name, weight in self.weights.items():
            held = [entries[part] for part in weight.inner.values()]
            size = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in held)
            layer = any_block(name)
            found[layer] = max(size, found.get(layer, 0))
        return found

    def __getitem__(self, name: str) -> Tensor:
        if (weight := self.weights.get(name)) is None:
            return self.raw[name]
        inner = {part: self.raw[stored] for part, stored in weight.inner.items()}
        tensor = QuantisedTensor(weight.form, inner, weight.shape, self.dtype)
        return tensor.dequantize() if self.numbers else tensor

    def stored(self, name: str, dtype: torch.dtype | None = None, dense: bool = False) -> Stored:
        """Where one tensor is; numbers are made of a quantised one when it is read (``dense``) or when it is used."""
        wanted = dtype or self.dtype
        if (weight := self.weights.get(name)) is None:
            return self.raw.stored(name, wanted)
        inner: dict[str, StoredTensor] = {}
        for part, inside in weight.inner.items():
            place = self.raw.stored(inside)
            assert isinstance(place, StoredTensor)
            inner[part] = place
        return StoredQuantised(weight.form, inner, weight.shape, wanted, dense)


def quantised(raw: Tensors) -> Tensors:
    """The tensors of a network, those in few bits found and described; ``raw`` itself where there are none.

    Raises CheckpointError for parts that are missing or do not fit, and for layouts that only their library reads.
    """
    if isinstance(raw, QuantisedTensors):
        return raw
    shapes, dtypes = shapes_of(raw), dtypes_of(raw)
    weights: dict[str, QuantisedWeight] = {}
    taken = {name for name in shapes if name.endswith(IGNORED) or name == "scaled_fp8"}
    for read in (_gguf, _bnb_4bit, _bnb_int8, _torchao, _quanto, _fp8):  # the last takes what is left
        for name, weight, beside in read(raw, shapes, dtypes):
            if name not in weights and not taken.intersection(weight.inner.values()):
                _check_inner(name, weight, raw)
                weights[name] = weight
                taken |= {*beside, *weight.inner.values()}
    if not weights:
        return raw
    return QuantisedTensors(raw, weights, frozenset(taken), precision_of(raw, weights))


def precision_of(raw: Tensors, weights: Mapping[str, QuantisedWeight]) -> torch.dtype:
    """The precision to compute in: what the weights name, else what most 16-bit tensors beside them have, else bf16.

    A 1.5 model (patches in time) overflows in float16 and is computed in bfloat16.
    """
    named = [weight.dtype for weight in weights.values() if weight.dtype is not None]
    consumed = {part for weight in weights.values() for part in weight.inner.values()}
    beside = [dtype for name, dtype in dtypes_of(raw).items() if name not in consumed]
    halves = Counter(dtype for dtype in named or beside if dtype.itemsize == 2 and dtype.is_floating_point)
    if named and not halves:
        return named[0]
    found = halves.most_common(1)[0][0] if halves else torch.bfloat16
    patch = raw.entries.get("patch_embed.proj.weight")
    of_15 = patch is not None and len(patch.shape) == 2
    return torch.bfloat16 if found == torch.float16 and of_15 else found


Found = tuple[str, QuantisedWeight, set[str]]
Shapes = Mapping[str, tuple[int, ...]]
Dtypes = Mapping[str, torch.dtype]


def _gguf(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    for name in shapes:
        layer, _, kind = name.removesuffix(QWEIGHT).rpartition(".")
        if not name.endswith(QWEIGHT) or not layer or kind not in SIZES:
            continue
        size, nbytes = SIZES[kind]
        rows, columns = shapes[name] if len(shapes[name]) == 2 else (0, 1)
        if dtypes[name] != torch.uint8 or columns % nbytes:
            raise CheckpointError(
                f"{_file(raw, name)}: {short(name)}: not rows of {kind} blocks of {nbytes} bytes"
            )
        shape = rows, columns // nbytes * size
        yield f"{layer}.weight", QuantisedWeight(GgufBlocks(kind), {"packed": name}, shape), set()


def _bnb_4bit(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    for state in shapes:
        name, found, kind = state.rpartition(BNB_STATE)
        if not found:
            continue
        values = _state_of(raw, state)
        double = "nested_blocksize" in values
        if double and dtypes.get(f"{name}.absmax", torch.uint8) != torch.uint8:
            raise CheckpointError(
                f"{_file(raw, state)}: {short(name)}: scales of double quantisation are bytes"
            )
        nested = {"scale_table": f"{name}.nested_quant_map", "scale_scale": f"{name}.nested_absmax"}
        inner = {"packed": name, "scale": f"{name}.absmax", "table": f"{name}.quant_map"}
        form = Table(
            kind,
            int(values["blocksize"]),
            int(values["nested_blocksize"]) if double else 0,
            float(values.get("nested_offset") or 0),
        )
        shape, dtype = tuple(values["shape"]), _named(values.get("dtype"))
        yield name, QuantisedWeight(form, inner | (nested if double else {}), shape, dtype), {state}


def _bnb_int8(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    for scale in shapes:
        if not scale.endswith(".SCB"):
            continue
        layer = scale.removesuffix(".SCB")
        beside = f"{layer}.weight_format"
        if beside in shapes and int(raw[beside]) != 0:
            raise CheckpointError(
                f"{_file(raw, scale)}: {layer}: bitsandbytes int8 in a layout of its kernels; save it in rows"
            )
        inner = {"packed": f"{layer}.weight", "scale": scale}
        shape = shapes.get(f"{layer}.weight", ())
        weight = QuantisedWeight(Scaled("bitsandbytes int8", 127.0), inner, shape)
        yield f"{layer}.weight", weight, {beside}


def _torchao(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    for name, text in raw.metadata.items():
        values = _json(text)
        kind, facts = values.get("_type"), values.get("_data")
        if not isinstance(kind, str) or kind == "Tensor" or not isinstance(facts, Mapping):
            continue
        layer, _, leaf = name.rpartition(".")
        held = values.get("_tensor_data_names")
        texts = [part for part in held if isinstance(part, str)] if isinstance(held, list) else []
        names = {part: f"{layer}._{leaf}_{part}" for part in texts}
        where = f"{_file(raw, next(iter(names.values()), name))}: {short(name)}"
        if kind not in TORCHAO or "qdata" not in names or "act_pre_scale" in names:
            raise CheckpointError(
                f"{where}: torchao {short(kind)}: a layout of its own kernels, or with scaled inputs; quantise again "
                f"with {', '.join(TORCHAO)}, or take the full-precision release"
            )
        form = TORCHAO[kind]
        if any(facts.get(fact) for fact in ROUNDED_ACTIVATIONS):
            form = replace(form, name=f"{form.name} (made for products in 8 bits)")
        known = {"packed": "qdata", "scale": "scale", "zero": "zero_point"}
        inner = {ours: names[theirs] for ours, theirs in known.items() if theirs in names}
        stored, shape = facts.get("shape"), shapes.get(names["qdata"], ())
        shape = tuple(stored) if isinstance(stored, list) else shape
        dtype = _named(facts.get("dtype")) or dtypes.get(inner.get("scale", ""))
        weight = QuantisedWeight(form, inner, shape, dtype)
        yield name, weight, set(names.values())


TORCHAO: dict[str, Scaled | Int4Groups] = {
    "Int8Tensor": Scaled("torchao int8"),
    "Float8Tensor": Scaled("torchao fp8"),
    "IntxUnpackedToInt8Tensor": Scaled("torchao intx"),
    "Int4Tensor": Int4Groups("torchao int4"),
}
"""torchao's classes of tensors that are read, by the name that it writes into the metadata."""


def _quanto(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    for data in shapes:
        name = data.removesuffix("._data")
        scale = f"{name}._scale"
        if data.endswith("._data._data"):
            raise CheckpointError(
                f"{_file(raw, data)}: {short(name)}: quanto in fewer than 8 bits, packed in its own way; take int8 or "
                "the full-precision release"
            )
        if data != name and scale in shapes:
            form = Scaled("quanto int8" if dtypes[data] == torch.int8 else "quanto fp8")
            yield (
                name,
                QuantisedWeight(form, {"packed": data, "scale": scale}, shapes[data], dtypes[scale]),
                set(),
            )


def _fp8(raw: Tensors, shapes: Shapes, dtypes: Dtypes) -> Iterator[Found]:
    scaled = any(name.endswith(SCALE_NAMES) for name in shapes)
    for name, dtype in dtypes.items():
        if dtype not in FP8:
            continue
        layer = name.removesuffix(".weight")
        scale = next((layer + ending for ending in SCALE_NAMES if layer + ending in shapes), None)
        if (
            scaled and scale is None and len(shapes[name]) == 2
        ):  # without it the weight would be hundreds of times off
            raise CheckpointError(
                f"{_file(raw, name)}: {short(name)}: fp8 without a scale among others that have one; copy it again"
            )
        kind = str(dtype).removeprefix("torch.float8_").removesuffix("fn")
        form = Scaled(f"fp8 {kind}" + (" with scales" if scale else ""))
        inner = {"packed": name} | ({"scale": scale} if scale else {})
        yield name, QuantisedWeight(form, inner, shapes[name]), set()


def _check_inner(name: str, weight: QuantisedWeight, raw: Tensors) -> None:
    """Raises CheckpointError where parts are missing, or the numbers they hold do not fill the weight."""
    entries = raw.entries
    missing = [part for part in weight.inner.values() if part not in entries]
    where = _file(raw, next((part for part in weight.inner.values() if part in entries), ""))
    if missing:
        raise CheckpointError(
            f"{where}: {short(name)}: its parts {few(missing)} are missing; copy the file again"
        )
    sides = weight.shape
    if not sides or not all(type(side) is int and 0 < side < 2**31 for side in sides):
        raise CheckpointError(
            f"{where}: {short(name)}: shape {short(list(sides))} is none; copy the file again"
        )
    held = {part: entries[stored].shape for part, stored in weight.inner.items()}
    if isinstance(
        weight.form, Table | Int4Groups
    ):  # the packed numbers lie in bytes, whatever these are called
        packed = entries[weight.inner["packed"]]
        held["packed"] = (math.prod(packed.shape) * packed.dtype.itemsize,)
    if not _fits(weight.form, held, sides):
        shapes = ", ".join(f"{part} {list(shape)}" for part, shape in held.items())
        raise CheckpointError(
            f"{where}: {short(name)}: {weight.form.name} of {list(sides)} cannot have {shapes}; copy the file again"
        )


def _fits(form: WeightFormat, held: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    """Whether parts of these shapes make a weight of ``shape``."""
    count, packed = math.prod(shape), math.prod(held["packed"])
    if isinstance(form, GgufBlocks):
        return True  # the shape was made from them
    if isinstance(form, Table):
        scales = -(-count // form.block) if form.block > 0 else -1
        nested = math.prod(held.get("scale_scale", (1,))) * max(form.scale_block, 1)
        enough = not form.scale_block or (nested >= scales and held["scale_table"] == (256,))
        return (
            packed == -(-count // 2)
            and math.prod(held["scale"]) == scales
            and enough
            and held["table"] == (16,)
        )
    if isinstance(form, Int4Groups):
        rows = (
            held["scale"][-1:] == shape[:1] and held["scale"] == held.get("zero") and len(held["scale"]) == 2
        )
        return 2 * packed == count and len(shape) == 2 and rows and shape[1] % held["scale"][0] == 0
    beside = [held[part] for part in ("scale", "zero") if part in held]
    return packed == count and all(_divides(blocks, shape) for blocks in beside)


def _divides(blocks: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if math.prod(blocks) == 1:
        return True
    pairs = list(zip(blocks, shape, strict=False))
    return len(blocks) <= len(shape) and all(count and side % count == 0 for count, side in pairs)


def _state_of(raw: Tensors, name: str) -> dict[str, Any]:
    """What bitsandbytes says about one weight: JSON in bytes, its numbers checked."""
    entry = raw.entries[name]
    small = entry.dtype == torch.uint8 and math.prod(entry.shape) < 65_536
    values = _json(bytes(raw[name].reshape(-1).tolist()).decode("utf-8", "replace")) if small else {}
    shape, blocks = values.get("shape"), [values.get("blocksize"), values.get("nested_blocksize", 1)]
    right = isinstance(shape, list) and all(type(size) is int and size > 0 for size in blocks)
    if not right or not isinstance(values.get("nested_offset", 0.0), int | float):
        raise CheckpointError(
            f"{_file(raw, name)}: {short(name)}: no shape and block size in it; copy the file again"
        )
    return values


def _json(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _named(value: Any) -> torch.dtype | None:
    """A precision by its name, or by torchao's JSON of it; None for anything else."""
    name = value.get("_data") if isinstance(value, Mapping) else value
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return known.get(name.removeprefix("torch.")) if isinstance(name, str) else None


def _file(raw: Tensors, name: str) -> str:
    entry = raw.entries.get(name)
    return str(entry.file) if entry is not None else "weights"
