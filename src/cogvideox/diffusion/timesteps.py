"""Which noise level each training sample gets."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.errors import ConfigError


def uniform(batch: int, generator: torch.Generator, num_train_timesteps: int = 1000) -> Int[Tensor, " b"]:
    """Independent uniform times, on the CPU."""
    return torch.randint(num_train_timesteps, (batch,), generator=generator)


def explicit_uniform(
    batch: int,
    generator: torch.Generator,
    rank: int = 0,
    ranks: int = 1,
    groups: int | None = None,
    num_train_timesteps: int = 1000,
) -> Int[Tensor, " b"]:
    """Explicit Uniform Sampling (paper section 3.2): the global batch covers the times evenly.

    The times are cut into ``groups`` equal intervals and sample j of the global batch of ``batch * ranks``
    draws inside interval ``j * groups // (batch * ranks)``. ``groups=ranks`` is the paper's rule (one
    interval per rank); the default, one interval per sample, is the finest, and also stratifies on one
    device. The times of the whole batch together are exactly uniform. Raises ConfigError when the global
    batch cannot be shared evenly among the groups.
    """
    total = batch * ranks
    groups = total if groups is None else groups
    if not 0 <= rank < ranks:
        raise ConfigError(f"rank {rank} of {ranks} ranks: ranks count from 0; choose 0 to {ranks - 1}")
    if groups < 1 or total % groups:
        raise ConfigError(
            f"groups {groups}: the global batch has {total} samples, which cannot be shared evenly; "
            f"choose a divisor of {total}"
        )
    place = torch.arange(rank * batch, (rank + 1) * batch)
    interval = place * groups // total
    within = torch.rand(batch, generator=generator, dtype=torch.float64)
    times = ((interval + within) / groups * num_train_timesteps).long()
    return times.clamp_(max=num_train_timesteps - 1)
