"""Tensors into modules, strictly: every name known, every shape right, one copy in memory; and in which precision.

float16 is a format for storing on a CPU, not for arithmetic. The shipped models and CogVideoX-2B are stored in it;
decoding in it on a CPU takes 10 to 100 times as long as in float32, for no better picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cogvideox.checkpoints.components import NetworkFiles
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.tensors import Tensors, dtypes_of, is_finite, shapes_of
from cogvideox.errors import CheckpointError, few, suggest
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.files.stored import Stored, StoredTensor, leave_in_file

NAMED = {
    "fp32": torch.float32, "float32": torch.float32, "fp16": torch.float16, "float16": torch.float16,
    "half": torch.float16, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
}  # fmt: skip
N = TypeVar("N", bound=nn.Module)


def assign(
    module: N,
    tensors: Mapping[str, Tensor],
    where: str,
    dtype: torch.dtype | Callable[[str], torch.dtype | None] | None = None,
    device: str | torch.device = "cpu",
) -> N:
    """Put tensors into a module built on ``meta``, one at a time, so that memory peaks at one copy of the weights.

    ``dtype`` (or what it says of a name) casts floating tensors; without it each keeps the type it was stored in.
    Quantised weights of linear layers stay so; of others numbers are made. Raises CheckpointError that names
    missing, unknown and mis-shaped tensors, before any is read.
    """
    expected = shapes_of(module.state_dict(keep_vars=True))
    check_names(expected, shapes_of(tensors), where)
    usual = tensors.dtype if isinstance(tensors, QuantisedTensors) else None
    wanted = dtype if callable(dtype) else lambda name: dtype
    for name in expected:
        tensor, kind = tensors[name], wanted(name) or usual
        cast = kind if kind is not None and tensor.is_floating_point() else tensor.dtype
        if isinstance(tensor, QuantisedTensor):
            tensor = tensor.with_inner(lambda part: part.to(device), cast)
            tensor = tensor if _keeps_bits(module, name) else tensor.dequantize()
        _put(module, name, tensor.to(device=device, dtype=cast))
    left = [name for name, value in [*module.named_parameters(), *module.named_buffers()] if value.is_meta]
    if left:
        raise CheckpointError(f"{where}: {few(left)} have no values: neither stored nor computed")
    return module


def assign_later(
    module: N, tensors: Tensors, where: str, dtype: Callable[[str], torch.dtype | None] = lambda name: None
) -> N:
    """As ``assign``, but the values stay in their files: the weights are on ``meta`` and know where they are.

    ``dtype`` says by name what a floating tensor is cast to when it is read. ``memory.offload`` reads them.
    """
    expected = shapes_of(module.state_dict(keep_vars=True))
    check_names(expected, shapes_of(tensors), where)
    for name, shape in expected.items():
        stored = tensors.stored(name, dtype(name), dense=not _keeps_bits(module, name))
        _put(module, name, torch.empty(shape, dtype=stored.wanted, device="meta"), stored)
    return module


def check_names(
    expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise CheckpointError unless both hold the same names with the same shapes."""
    missing = [name for name in expected if name not in actual]
    unknown = [name for name in actual if name not in expected]
    hint = _common_prefix(unknown, expected)
    if not hint:  # only those that are shown: each costs a comparison with all that is missing
        unknown[:5] = [name + suggest(name, missing) for name in unknown[:5]]
    shaped = [
        f"{name} is {list(actual[name])}, should be {list(expected[name])}"
        for name in expected
        if name in actual and tuple(actual[name]) != tuple(expected[name])
    ]
    wrong = {"missing tensors": missing, "unknown tensors": unknown, "mis-shaped tensors": shaped}
    listed = [f"{len(names)} {what}: {few(names)}" for what, names in wrong.items() if names]
    if listed:
        cure = hint or "is config.json or the preset the one of these weights?"
        raise CheckpointError(f"{where}: {'; '.join(listed)}; {cure}")


def _common_prefix(unknown: list[str], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What to do when all unknown names are known ones with something before them ('' when they are not)."""
    words = unknown[0].split(".") if unknown else []
    for at in range(1, min(len(words), 8)):
        prefix = ".".join(words[:at]) + "."
        if all(name.startswith(prefix) and name[len(prefix) :] in expected for name in unknown):
            return f"all unknown names begin with {prefix!r}: save the weights without it"
    return ""


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError that names the tensors with NaN or Inf."""
    bad = [name for name in tensors if not is_finite(tensors[name])]
    if bad:
        raise CheckpointError(f"{where}: NaN or Inf in {few(bad)}; take an earlier checkpoint")


def to_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """A torch type from 'bf16', 'float16', ...; None: as stored. Raises CheckpointError for other names."""
    if name is None or isinstance(name, torch.dtype):
        return name
    if name not in NAMED:
        raise CheckpointError(f"dtype {name!r}: one of {', '.join(NAMED)}{suggest(name, NAMED)}")
    return NAMED[name]


def cpu_dtypes(
    folder: Path,
    networks: Mapping[str, NetworkFiles],
    wanted: torch.dtype | None,
    asked: bool,
    variant: str | None,
) -> dict[str, torch.dtype | None]:
    """The precision of each network on a CPU: float32 instead of float16, unless that was ``asked`` for; warns of both.

    ``wanted`` None: as stored.
    """
    slow = "a CPU is 10 to 100 times slower in float16"
    if asked:
        if wanted == torch.float16:
            warnings.warn(
                f"{folder}: dtype float16: {slow} than in float32; use dtype='float32'", stacklevel=3
            )
        return dict.fromkeys(networks, wanted)
    half = [name for name, files in networks.items() if _is_half(files, wanted, variant)]
    if half:
        warnings.warn(
            f"{folder}: {', '.join(half)}: float16 becomes float32, since {slow}; dtype='float16' keeps it",
            stacklevel=3,
        )
    return {name: torch.float32 if name in half else wanted for name in networks}


def _is_half(files: NetworkFiles, wanted: torch.dtype | None, variant: str | None) -> bool:
    if wanted is not None or not files.where.exists():
        return wanted == torch.float16
    return torch.float16 in dtypes_of(files.tensors(variant)).values()


def _keeps_bits(module: nn.Module, name: str) -> bool:
    """Whether a quantised weight of this name stays so: the matrix of a linear layer."""
    path, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(module.get_submodule(path), nn.Linear)


def _put(module: nn.Module, name: str, tensor: Tensor, stored: Stored | None = None) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if (old := owner._parameters.get(leaf)) is not None:
        plain = stored is None and not isinstance(tensor, QuantisedTensor)
        grad = (
            old.requires_grad and tensor.is_floating_point() and (plain or isinstance(stored, StoredTensor))
        )
        tensor = owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=grad)
    else:
        owner._buffers[leaf] = tensor
    if stored is not None:
        leave_in_file(tensor, stored)
