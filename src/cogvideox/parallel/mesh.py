"""Which ranks do what: data x shard x context.

``data`` ranks hold whole copies of the weights and other clips, ``shard`` ranks parts of the weights and other clips,
``context`` ranks share every clip. Ranks of one context group are neighbours, so that they sit in one machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from pydantic import Field
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cogvideox.config import Config
from cogvideox.device import check_device
from cogvideox.errors import ConfigError

AXES = ("data", "shard", "context")


class MeshConfig(Config):
    """How many ranks along each axis; their product is the number of processes."""

    data: int = Field(0, ge=0, description="copies of the weights; 0: as many as the processes allow")
    shard: int = Field(1, ge=1, description="ranks that hold parts of one copy of the weights")
    context: int = Field(1, ge=1, description="ranks that share every clip")

    def sizes(self, ranks: int) -> tuple[int, int, int]:
        """Ranks along each axis. Raises ConfigError when they do not make up ``ranks``."""
        each = self.shard * self.context
        data = self.data or max(1, ranks // each)
        if data * each != ranks:
            raise ConfigError(
                f"mesh data {data} x shard {self.shard} x context {self.context} is {data * each} processes, "
                f"started: {ranks}; change the mesh, or start {data * each} processes"
            )
        return data, self.shard, self.context


def is_distributed() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: str = "cpu", minutes: float = 30) -> Iterator[str]:
    """Join the processes that a launcher started, and leave them at the end; yields the device of this one.

    A process that was started alone joins nobody.
    """
    if not is_distributed() or dist.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        check_device(device)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def is_main_process() -> bool:
    """Whether this process is the one that writes and talks: rank 0 of those that a launcher started."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def make_mesh(config: MeshConfig, device: str = "cpu") -> DeviceMesh:
    """The mesh of all processes. Raises ConfigError when it does not fit them."""
    return init_device_mesh(device, config.sizes(dist.get_world_size()), mesh_dim_names=AXES)
