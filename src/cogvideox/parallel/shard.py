"""Applied to a finished model from outside: activation checkpointing, compilation, sharded weights (FSDP2, HSDP).

The order matters and is that of the functions here: compiled blocks, checkpointed outside of that, inside FSDP2.

FSDP2 cuts the first dimension into equal shards, of which the last may be shorter or empty. A state on disk is not
tied to that cut: it names rows of the whole tensor, and whoever reads takes the rows it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from cogvideox.errors import ConfigError


def compile_blocks(blocks: Iterable[nn.Module], backend: str | Callable = "inductor") -> None:
    """Each block by itself: equal blocks share one compilation, and shapes may change from batch to batch.

    Raises ConfigError after ``checkpoint_blocks``, inside of which a compiler sees nothing.
    """
    for block in blocks:
        if getattr(block.forward, "func", None) is checkpoint:
            raise ConfigError(
                "compile_blocks after checkpoint_blocks would compile nothing; call compile_blocks first"
            )
        block.forward = torch.compile(block.forward, backend=backend, dynamic=True)  # type: ignore[method-assign]


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Activation checkpointing: each block keeps its inputs only and runs again in the backward pass.

    The same gradients, for a third more work.
    """
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def shard(
    module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, half: torch.dtype | None = None
) -> FSDPModule:
    """Shard each weight over shard and context ranks, with copies along data (HSDP); gradients are means.

    ``half``: weights are gathered and computed with in this precision; gradients are added up in float32.
    """
    # our outputs are views that nobody writes to; said once a process at every start
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    shards = mesh["shard", "context"]._flatten("weights")
    over = mesh["data"] if shards.size() == 1 else shards
    if mesh["data"].size() > 1 and shards.size() > 1:
        over = _copies_and_shards(mesh)
    for block in blocks:
        fully_shard(block, mesh=over, mp_policy=policy)
    whole_module = fully_shard(module, mesh=over, mp_policy=policy)
    if hasattr(module, "forward_packed"):  # a second way in: weights come together for it too
        register_fsdp_forward_method(module, "forward_packed")
    return whole_module


def _copies_and_shards(mesh: DeviceMesh) -> DeviceMesh:
    """The mesh as two axes: copies of the weights, and shards of one copy."""
    data, shards = mesh["data"].size(), mesh["shard"].size() * mesh["context"].size()
    ranks = mesh.mesh.reshape(data, shards)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("copies", "weights"))


def full_tensor(value: Tensor) -> Tensor:
    """The whole tensor on every rank; a DTensor is gathered."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def reshard(module: nn.Module) -> None:
    """Free the whole weights that a forward without a backward pass left gathered: they are about to change."""
    if isinstance(module, FSDPModule):
        module.reshard()


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
    moment = isinstance(value, Tensor) and value.shape == weight.shape and value.ndim
    return shard_like(value, weight) if moment or isinstance(value, SavedShards) else value
