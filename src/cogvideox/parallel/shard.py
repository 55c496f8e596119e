"""Applied to a finished model from outside: activation checkpointing, compilation, sharded weights (FSDP2, HSDP).

The order matters and is that of the functions here: checkpointing inside compilation, compilation inside FSDP2.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Activation checkpointing: each block keeps its inputs only and runs again in the backward pass.

    The same gradients, for a third more work.
    """
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Each block by itself: equal blocks share one compilation, and shapes may change from batch to batch."""
    for block in blocks:
        block.compile(dynamic=True)


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


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """The whole tensor on every rank; a DTensor is gathered."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def reshard(module: nn.Module) -> None:
    """Free the whole weights that a forward without a backward pass left gathered: they are about to change."""
    if isinstance(module, FSDPModule):
        module.reshard()
