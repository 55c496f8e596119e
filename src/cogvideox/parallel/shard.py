"""Applied to a finished model from outside: recompute, compile, and weights in parts (FSDP2, HSDP).

The order matters and is that of the functions here: recompute inside compile, compile inside the parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Keep only the inputs of each block, and compute what is inside again on the way back."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block by itself: equal blocks share one compilation."""
    for block in blocks:
        block.compile()


def shard(
    module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, half: torch.dtype | None = None
) -> FSDPModule:
    """Each weight in parts over shard and context ranks, whole copies along data (HSDP); gradients are means.

    ``half``: weights are gathered and computed with in this precision; gradients are added up in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    parts = mesh["shard", "context"]._flatten("weights")
    over = mesh["data"] if parts.size() == 1 else parts
    if mesh["data"].size() > 1 and parts.size() > 1:
        over = _data_and_parts(mesh)
    for block in blocks:
        fully_shard(block, mesh=over, mp_policy=policy)
    return fully_shard(module, mesh=over, mp_policy=policy)


def _data_and_parts(mesh: DeviceMesh) -> DeviceMesh:
    """The mesh as two axes: copies, and parts of one copy."""
    data, parts = mesh["data"].size(), mesh["shard"].size() * mesh["context"].size()
    ranks = mesh.mesh.reshape(data, parts)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("copies", "weights"))


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may lie in parts, on every rank."""
    return value.full_tensor() if isinstance(value, DTensor) else value
