"""Tensors of which each process holds some rows: what is mine, what I write, and how rows come back in another split.

FSDP2 cuts the first dimension into equal parts, of which the last may be shorter or empty. A state on disk is not
tied to that cut: it names rows of the whole tensor, and whoever reads takes the rows it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class SavedShards:
    """A tensor in a state that was written in parts. ``read(first, last)`` returns these rows of the whole."""

    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]

    def whole(self) -> Tensor:
        """All of it."""
        return self.read(0, self.shape[0])


@torch.no_grad()
def local(value: Tensor) -> Tensor:
    """The memory that this process holds of a tensor; writing to it writes to the tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def rows_of(value: DTensor) -> tuple[int, int]:
    """Which rows of the whole this process holds: (first, last + 1)."""
    parts, place = value.device_mesh.size(-1), value.device_mesh.get_local_rank(value.device_mesh.ndim - 1)
    each = -(-value.shape[0] // parts)
    first = min(place * each, value.shape[0])
    assert local(value).shape[0] == min(each, value.shape[0] - first), "FSDP2 cuts rows in equal parts"
    return first, first + local(value).shape[0]


def is_mine_to_write(value: DTensor) -> bool:
    """Whether this process stands for its rows: of equal copies (HSDP) the first one does."""
    return value.device_mesh.ndim == 1 or value.device_mesh.get_local_rank(0) == 0


def mine(saved: Tensor | SavedShards, like: Tensor) -> Tensor:
    """What this process holds of ``saved`` when it lies as ``like`` does."""
    if isinstance(like, DTensor):
        first, last = rows_of(like)
        return saved.read(first, last) if isinstance(saved, SavedShards) else saved[first:last]
    return saved.whole() if isinstance(saved, SavedShards) else saved


def laid_like(saved: Tensor | SavedShards, like: Tensor) -> Tensor:
    """``saved`` as a tensor that lies as ``like`` does, whole or in parts."""
    found = mine(saved, like)
    if not isinstance(like, DTensor):
        return found
    return DTensor.from_local(
        found.to(local(like).device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved optimiser's state with moments that lie as the weights they belong to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        number: {name: _moment(value, weights[number]) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}


def _moment(value: Any, weight: Tensor) -> Any:
    if isinstance(value, SavedShards) or (
        isinstance(value, Tensor) and value.shape == weight.shape and value.ndim
    ):
        return laid_like(value, weight)
    return value
