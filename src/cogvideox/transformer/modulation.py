"""The modulations of a run, evaluated once: they depend on the timestep and on nothing else.

The linear layers that make them hold 14 % of the 5B model's weights and 21 % of the 2B's. With the timesteps
known beforehand, their results are small tables (0.16 GB for 50 steps of the 5B), and the layers can leave the
device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.errors import ConfigError
from cogvideox.transformer.block import ExpertNorm
from cogvideox.transformer.transformer import FinalNorm, Transformer


class ModulationTable(nn.Module):
    """Stands where a linear layer stood: row numbers in, its results out.

    The table is no buffer: it is where it was made, on the device that computes, and never travels.
    """

    def __init__(self, linear: nn.Linear, signals: Float[Tensor, "steps s"]) -> None:
        super().__init__()
        self.table = linear(signals)

    def forward(self, rows: Int[Tensor, "*b 1"]) -> Float[Tensor, "*b d"]:
        return F.embedding(rows[..., 0], self.table)


@contextmanager
@torch.no_grad()
def tabulated(network: Transformer, timesteps: Sequence[int], park: str | None = None) -> Iterator[None]:
    """Inside, ``network`` knows these timesteps only, and no gradients; afterwards it is as it was.

    ``park`` names a device where the linear layers wait meanwhile; without it they stay where they are. Equal to
    the plain network within rounding (5e-7 relative in float32). Raises ConfigError for no timesteps.
    """
    if not timesteps:
        raise ConfigError("timesteps: none; a table needs the timesteps of the run")
    some = network.proj_out.weight
    home, dtype = some.device, some.dtype
    signals = network.signal(torch.tensor(sorted(set(timesteps)), device=home), None, dtype)
    known = torch.tensor(sorted(set(timesteps)), device=signals.device)
    norms = [module for module in network.modules() if isinstance(module, ExpertNorm | FinalNorm)]
    layers: list[nn.Linear] = [norm.linear for norm in norms]
    try:
        for norm, linear in zip(norms, layers, strict=True):
            norm.linear = ModulationTable(linear, signals)
            if park is not None:
                linear.to(park)
        network.signal = lambda times, ofs, dtype: torch.searchsorted(known, times.to(known.dtype))[:, None]  # type: ignore[method-assign]
        yield
    finally:
        vars(network).pop("signal", None)
        for norm, linear in zip(norms, layers, strict=True):
            norm.linear = linear.to(home) if park is not None else linear
