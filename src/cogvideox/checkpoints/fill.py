"""Tensors into modules, strictly: every name known, every shape right, one copy in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from cogvideox.checkpoints.keymap import few
from cogvideox.checkpoints.tensors import Tensors, is_finite
from cogvideox.errors import CheckpointError, suggest

NAMED = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "half": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
N = TypeVar("N", bound=nn.Module)


def assign(
    module: N,
    tensors: Mapping[str, Tensor],
    where: str,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> N:
    """Put tensors into a module built on ``meta``, one at a time, so that memory peaks at one copy of the
    weights.

    ``dtype`` casts floating tensors; without it each keeps the type it was stored in. Raises CheckpointError
    that names missing, unknown and mis-shaped tensors, before any is read.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict(keep_vars=True).items()}
    shapes = (
        tensors.shapes if isinstance(tensors, Tensors) else {k: tuple(v.shape) for k, v in tensors.items()}
    )
    check_names(expected, shapes, where)
    for name in expected:
        tensor = tensors[name]
        cast = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        _put(module, name, tensor.to(device=device, dtype=cast))
    left = [name for name, value in [*module.named_parameters(), *module.named_buffers()] if value.is_meta]
    if left:
        raise CheckpointError(f"{where}: {few(left)} have no values: neither stored nor computed")
    return module


def check_names(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise CheckpointError unless both hold the same names with the same shapes."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    hint = _common_prefix(unknown, expected)
    if not hint:  # only those that are shown: each costs a comparison with all that is missing
        unknown[:5] = [name + suggest(name, missing) for name in unknown[:5]]
    shaped = [
        f"{name} is {list(found[name])}, should be {list(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    parts = [("missing tensors", missing), ("unknown tensors", unknown), ("mis-shaped tensors", shaped)]
    told = [f"{len(names)} {what}: {few(names)}" for what, names in parts if names]
    if told:
        cure = hint or "is config.json or the preset the one of these weights?"
        raise CheckpointError(f"{where}: {'; '.join(told)}; {cure}")


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


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        grad = owner._parameters[leaf].requires_grad and tensor.is_floating_point()
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=grad)
    else:
        owner._buffers[leaf] = tensor
