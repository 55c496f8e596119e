"""GGUF containers, the files of llama.cpp: the header is read by the library ``gguf``, tensors when they are asked for.

Blocks stay blocks (``gguf_blocks``); tensors of plain floats are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.checkpoints.quantised import QuantisedTensors, QuantisedWeight, precision_of
from cogvideox.checkpoints.tensors import TensorEntry, Tensors
from cogvideox.errors import CheckpointError, DependencyError
from cogvideox.files.gguf_blocks import GgufBlocks

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
"""What converters put before the names of a transformer."""
MOST_TENSORS = 100_000


class GgufTensors(Tensors):
    """The tensors of a GGUF file as they lie there, blocks as bytes [rows, bytes of a row]."""

    def __getitem__(self, name: str) -> Tensor:
        return self.stored(name).read()


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF containers do."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def read_gguf(path: Path) -> QuantisedTensors:
    """The transformer in a GGUF file, named as diffusers names it. Raises CheckpointError, DependencyError."""
    _, tensors = read_container(path, _without_prefix)
    return tensors


def read_container(
    path: Path, name_of: Callable[[str], str | None], dtype: torch.dtype | None = None
) -> tuple[str, QuantisedTensors]:
    """The architecture that a GGUF file names ("" where it names none), and its tensors.

    ``name_of``: the name of a tensor in our network, None for one that is left out. ``dtype``: the precision to compute
    in where none is asked for; None: as the file's 16-bit tensors. Raises CheckpointError for a damaged file, or blocks
    that cannot be read, DependencyError without the library.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise DependencyError(
            f"{path}: the library gguf is not installed; pip install 'cogvideox[gguf]'"
        ) from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name a .gguf file")
    try:
        reader = GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = field.contents() if field is not None else ""
        listed = list(reader.tensors)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not a GGUF file, or a damaged one: {reason}; copy it again") from None
    entries: dict[str, TensorEntry] = {}
    weights: dict[str, QuantisedWeight] = {}
    for tensor in listed[:MOST_TENSORS]:
        if (name := name_of(tensor.name)) is None:
            continue
        if name in entries or name in weights:
            raise CheckpointError(f"{path}: {tensor.name}: a second tensor for {name}; take another file")
        shape, offset = _check(tensor, path), int(tensor.data_offset)
        kind = tensor.tensor_type.name
        if kind in PLAIN:
            entries[name] = TensorEntry(shape, PLAIN[kind], path, offset)
            continue
        packed = f"{name}#{kind}"
        rows = math.prod(shape[:-1])
        entries[packed] = TensorEntry((rows, int(tensor.n_bytes) // rows), torch.uint8, path, offset)
        weights[name] = QuantisedWeight(GgufBlocks(kind), {"packed": packed}, shape)
    raw = GgufTensors(entries, {})
    return str(architecture), QuantisedTensors(raw, weights, frozenset(), dtype or precision_of(raw, weights))


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Rows first: the file names the fastest dimension first."""
    return tuple(int(side) for side in reversed(tensor.shape))


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(each) for each in PREFIXES if name.startswith(each)), name)


def _check(tensor: Any, path: Path) -> tuple[int, ...]:
    """The shape; raises CheckpointError for blocks of a kind that cannot be read, or that do not fill their rows."""
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import _type_traits

    kind, shape = tensor.tensor_type, shape_of(tensor)
    known = kind in _type_traits or kind.name in PLAIN
    size, nbytes = GGML_QUANT_SIZES[kind]
    if not known or not all(shape) or not shape or shape[-1] % size:
        what = f"{tensor.name} of {list(shape)} in {kind.name}"
        raise CheckpointError(f"{path}: {what} cannot be read; take Q8_0 or Q4_K")
    held, end = int(tensor.n_bytes), int(tensor.data_offset) + int(tensor.n_bytes)
    if held != math.prod(shape) // size * nbytes or end > path.stat().st_size:
        raise CheckpointError(
            f"{path}: {tensor.name}: {held} bytes of {list(shape)}, ending at {end}; copy it again"
        )
    return shape
