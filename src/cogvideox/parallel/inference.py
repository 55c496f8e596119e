"""One video by several processes: the guidance pair side by side, sequences split, weights sharded.

Every rank ends with the same latents and the same video; one of them writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cogvideox.errors import ConfigError
from cogvideox.parallel.exchange import Group, all_gather
from cogvideox.parallel.sequence import split_sequence
from cogvideox.transformer import Transformer


@dataclass(frozen=True)
class Spread:
    """How processes share one video: ``pair`` (2: one half of the ranks for each prompt of guidance) times ``context``
    (parts of the sequence)."""

    pair: int
    context: int

    @classmethod
    def over(cls, ranks: int, guided: bool) -> Spread:
        """The division for this many ranks: pair 2 with guidance and an even number; the rest splits the sequence."""
        pair = 2 if guided and ranks % 2 == 0 else 1
        return cls(pair, ranks // pair)


def spread(transformer: Transformer, how: Spread, device: str = "cpu") -> None:
    """Distribute ``transformer`` over all processes. Raises ConfigError when there are not as many as ``how`` says."""
    from cogvideox.parallel.shard import shard  # FSDP takes a second to import; one process needs none

    ranks = dist.get_world_size()
    if how.pair * how.context != ranks:
        raise ConfigError(f"pair {how.pair} x context {how.context}: {ranks} processes were started")
    axes = init_device_mesh(device, (how.pair, how.context), mesh_dim_names=("pair", "context"))
    if how.context > 1:
        split_sequence(transformer, axes["context"].get_group())
    weights = DeviceMesh(device, axes.mesh.reshape(1, 1, ranks), mesh_dim_names=("data", "shard", "context"))
    shard(transformer, transformer.transformer_blocks, weights)
    if how.pair > 1:
        batch = _SplitBatch(axes["pair"].get_group())
        transformer.register_forward_pre_hook(batch.take_local)
        transformer.register_forward_hook(batch.gather)


class _SplitBatch:
    """Forward hooks: each rank of a group computes its share of the batch; one that cannot be divided stays whole."""

    def __init__(self, group: Group) -> None:
        self.group, self.split = group, False

    def take_local(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.split = len(given[0]) % size == 0
        return tuple(x.chunk(size)[rank] for x in given) if self.split else given

    def gather(self, module: nn.Module, given: Any, out: Tensor) -> Tensor:
        if not self.split:
            return out
        lengths = [len(out)] * dist.get_world_size(self.group)
        return torch.cat(all_gather(out.contiguous(), lengths, 0, self.group))
