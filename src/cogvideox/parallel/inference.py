"""One video by several processes: the guidance pair side by side, sequences split, weights sharded.

Every rank ends with the same latents and the same video; one of them writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cogvideox.errors import ConfigError
from cogvideox.parallel.exchange import Group, all_gather
from cogvideox.parallel.sequence import split_sequence
from cogvideox.parallel.shard import shard
from cogvideox.transformer import Transformer


@dataclass(frozen=True)
class Spread:
    """How the processes share the work of one video."""

    pair: int
    context: int

    @classmethod
    def over(cls, ranks: int, guided: bool) -> Spread:
        """With guidance an even number of ranks answers both prompts at once; the rest is split sequences."""
        pair = 2 if guided and ranks % 2 == 0 else 1
        return cls(pair, ranks // pair)


def spread(transformer: Transformer, how: Spread, device: str = "cpu") -> None:
    """Let all processes share ``transformer``. Raises ConfigError when there are not as many as ``how`` says."""
    ranks = dist.get_world_size()
    if how.pair * how.context != ranks:
        raise ConfigError(f"pair {how.pair} x context {how.context}: {ranks} processes were started")
    axes = init_device_mesh(device, (how.pair, how.context), mesh_dim_names=("pair", "context"))
    if how.context > 1:
        split_sequence(transformer, axes["context"].get_group())
    weights = DeviceMesh(device, axes.mesh.reshape(1, 1, ranks), mesh_dim_names=("data", "shard", "context"))
    shard(transformer, transformer.transformer_blocks, weights)
    if how.pair > 1:
        group = axes["pair"].get_group()
        transformer.register_forward_pre_hook(_take_local_batch(group))
        transformer.register_forward_hook(_gather_batch(group))


def _take_local_batch(group: Group) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def before(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        module.batch_is_split = len(given[0]) % size == 0
        return tuple(x.chunk(size)[rank] for x in given) if module.batch_is_split else given

    return before


def _gather_batch(group: Group) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def after(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        if not module.batch_is_split:
            return out
        return torch.cat(all_gather(out.contiguous(), [len(out)] * dist.get_world_size(group), 0, group))

    return after
