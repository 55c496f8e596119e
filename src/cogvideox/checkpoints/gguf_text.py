"""A T5 encoder from a GGUF file, named by llama.cpp's converter: numbers are made of its blocks layer by layer.

The header is read by the library ``gguf``; a tensor's bytes are read when its layer is needed, and become weights of
the run's precision there. Nothing is computed in the packed format: a file costs its size on disk and two layers in
memory.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.checkpoints.tensors import TensorEntry, Tensors
from cogvideox.errors import CheckpointError, DependencyError
from cogvideox.files.stored import StoredTensor, WeightFile

ARCHITECTURES = ("t5", "t5encoder")
BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
OUTSIDE = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
INSIDE = {
    "attn_q": "0.SelfAttention.q", "attn_k": "0.SelfAttention.k", "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o", "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm", "ffn_gate": "1.DenseReluDense.wi_0", "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo", "ffn_norm": "1.layer_norm",
}  # fmt: skip
"""Name in the file -> name in the network, of one layer (llama.cpp, MODEL_ARCH.T5ENCODER)."""
IGNORED = re.compile(r"(dec\.|output\.weight)")
"""The decoder half of a whole T5, which no video needs."""
MOST_TENSORS = 100_000


class PackedTensors(Tensors):
    """The tensors of a GGUF file, under the names of our network."""

    def __init__(self, path: Path, packed: dict[str, Any]) -> None:
        self.path, self.packed = path, packed
        entries = {name: TensorEntry(shape_of(each), torch.float32, path) for name, each in packed.items()}
        super().__init__(entries, {})
        self.file = WeightFile(path)

    def __getitem__(self, name: str) -> Tensor:
        return self.stored(name).read()

    def stored(self, name: str, dtype: torch.dtype | None = None) -> StoredTensor:
        """Where one tensor is, and how numbers are made of its blocks; ``dtype`` None: float32."""
        tensor, shape = self.packed[name], self.entries[name].shape
        offset, nbytes, kind = int(tensor.data_offset), int(tensor.n_bytes), tensor.tensor_type

        def decode(packed: Tensor) -> Tensor:
            from gguf.quants import dequantize

            rows = packed.numpy().reshape(shape[0], -1)
            return torch.from_numpy(dequantize(rows, kind))

        return StoredTensor(self.file, offset, nbytes, shape, torch.uint8, dtype or torch.float32, decode)


def read_gguf_text(path: Path) -> PackedTensors:
    """The T5 encoder in a GGUF file. Raises CheckpointError for another network or a damaged file, DependencyError."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise DependencyError(
            f"{path}: the library gguf is not installed; pip install 'cogvideox[gguf]'"
        ) from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name a .gguf file of T5 v1.1 XXL")
    try:
        reader = GGUFReader(path)
        field = reader.get_field("general.architecture")
        name = field.contents() if field is not None else None
        tensors = list(reader.tensors)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not a GGUF file, or a damaged one: {reason}; copy it again") from None
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: architecture {name!r}; only {' and '.join(ARCHITECTURES)} are text encoders here"
        )
    packed: dict[str, Any] = {}
    for tensor in tensors[:MOST_TENSORS]:
        if IGNORED.match(tensor.name):
            continue
        _check(tensor, path)
        packed[ours(tensor.name)] = tensor
    return PackedTensors(path, packed)


def ours(name: str) -> str:
    """The name of a tensor in our network; one that is not known stays, and is named in an error later."""
    block = BLOCK.fullmatch(name)
    if block and block[2] in INSIDE:
        return f"encoder.block.{block[1]}.layer.{INSIDE[block[2]]}.weight"
    return OUTSIDE.get(name, name)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Rows first: the file names the fastest dimension first."""
    return tuple(int(side) for side in reversed(tensor.shape))


def _check(tensor: Any, path: Path) -> None:
    """Raises CheckpointError for blocks of a kind that cannot be read, or that do not fill their rows."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits

    kind, shape = tensor.tensor_type, shape_of(tensor)
    known = kind in _type_traits or kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    size, nbytes = GGML_QUANT_SIZES[kind]
    if not known or not shape or shape[-1] % size:
        what = f"{tensor.name} of {list(shape)} in {kind.name}"
        raise CheckpointError(f"{path}: {what} cannot be read; take Q8_0 or Q4_K")
    held, end = int(tensor.n_bytes), int(tensor.data_offset) + int(tensor.n_bytes)
    if held != math.prod(shape) // size * nbytes or end > path.stat().st_size:
        raise CheckpointError(
            f"{path}: {tensor.name}: {held} bytes of {list(shape)}, ending at {end}; copy it again"
        )
