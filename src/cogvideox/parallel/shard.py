"""Applied to a finished model from outside: recompute, compile, and weights in parts (FSDP2, HSDP).

The order matters and is that of the functions here: recompute inside compile, compile inside the parts.
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
    """Each block keeps its inputs alone and runs again on the way back: the same gradients, a third more work."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Each block by itself: equal blocks share one compilation, and shapes may change from row to row."""
    for block in blocks:
        block.compile(dynamic=True)


def shard(
    module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, half: torch.dtype | None = None
) -> FSDPModule:
    """Each weight in parts over shard and context ranks, whole copies along data (HSDP); gradients are means.

    ``half``: weights are gathered and computed with in this precision; gradients are added up in float32.
    """
    # our outputs are views that nobody writes to; said once a process at every start
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    parts = mesh["shard", "context"]._flatten("weights")
    over = mesh["data"] if parts.size() == 1 else parts
    if mesh["data"].size() > 1 and parts.size() > 1:
        over = _data_and_parts(mesh)
    for block in blocks:
        fully_shard(block, mesh=over, mp_policy=policy)
    whole_module = fully_shard(module, mesh=over, mp_policy=policy)
    if hasattr(module, "forward_packed"):  # a second way in: weights come together for it too
        register_fsdp_forward_method(module, "forward_packed")
    return whole_module


def _data_and_parts(mesh: DeviceMesh) -> DeviceMesh:
    """The mesh as two axes: copies, and parts of one copy."""
    data, parts = mesh["data"].size(), mesh["shard"].size() * mesh["context"].size()
    ranks = mesh.mesh.reshape(data, parts)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("copies", "weights"))


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may lie in parts, on every rank."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def reshard(module: nn.Module) -> None:
    """Forget the whole weights that a forward without a way back has left gathered: they are about to change."""
    if isinstance(module, FSDPModule):
        module.reshard()
