"""Sharded tensors (DTensor) and their states on disk: which rows a process holds, writes and reads.

FSDP2 cuts the first dimension into equal shards, of which the last may be shorter or empty. A state on disk is not
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
    """A tensor in a state that was written shard by shard; ``read(first, last)`` returns these rows of the whole."""

    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]

    def whole(self) -> Tensor:
        """The whole tensor, read from all shards."""
        return self.read(0, self.shape[0])


@torch.no_grad()
def to_local(value: Tensor) -> Tensor:
    """The shard of a tensor that this process holds (a plain tensor: all of it), in the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def local_rows(value: DTensor) -> tuple[int, int]:
    """Which rows of the whole tensor this process holds: (first, last + 1)."""
    mesh = value.device_mesh
    each = -(-value.shape[0] // mesh.size(-1))
    first = min(mesh.get_local_rank(mesh.ndim - 1) * each, value.shape[0])
    held = to_local(value).shape[0]
    assert held == min(each, value.shape[0] - first), "FSDP2 cuts rows in equal shards"
    return first, first + held


def is_first_replica(value: DTensor) -> bool:
    """Whether this process writes its rows: of equal copies (HSDP) the first one does."""
    return value.device_mesh.ndim == 1 or value.device_mesh.get_local_rank(0) == 0


def local_shard(saved: Tensor | SavedShards, like: Tensor) -> Tensor:
    """The rows of ``saved`` that this process holds when it is sharded as ``like`` is (not sharded: all)."""
    if isinstance(like, DTensor):
        first, last = local_rows(like)
        return saved.read(first, last) if isinstance(saved, SavedShards) else saved[first:last]
    return saved.whole() if isinstance(saved, SavedShards) else saved


def shard_like(saved: Tensor | SavedShards, like: Tensor) -> Tensor:
    """``saved`` as a tensor that is sharded as ``like`` is, or whole where ``like`` is."""
    shard = local_shard(saved, like)
    if not isinstance(like, DTensor):
        return shard
    return DTensor.from_local(
        shard.to(to_local(like).device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def shard_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved optimiser's state with moments that are sharded as the weights they belong to."""
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
        return shard_like(value, weight)
    return value
