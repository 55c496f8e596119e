"""The modulations of a run, evaluated once: they depend on the timestep and on nothing else.

The linear layers that make them hold 14 % of the 5B model's weights and 21 % of the 2B's. With the timesteps known
beforehand, their results are small tables (0.16 GB for 50 steps of the 5B), and the layers can leave the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.errors import ConfigError
from cogvideox.files.stored import stored_of
from cogvideox.transformer.block import ExpertNorm
from cogvideox.transformer.transformer import FinalNorm, Transformer


class ModulationTable(nn.Module):
    """Replaces a modulation's linear layer: the index of a timestep in, the layer's result for it out.

    The table is no buffer: it stays on the device where it was computed when modules are moved.
    """

    def __init__(self, table: Float[Tensor, "steps d"]) -> None:
        super().__init__()
        self.table = table

    def forward(self, steps: Int[Tensor, "*b 1"]) -> Float[Tensor, "*b d"]:
        """The results for timesteps, given by their index in the list that the table was made for."""
        return F.embedding(steps[..., 0], self.table)


@contextmanager
@torch.no_grad()
def tabulated(network: Transformer, timesteps: Sequence[int], park: str | None = None) -> Iterator[None]:
    """Inside, ``network`` computes for these timesteps only, without gradients; afterwards it is as before.

    ``park`` names a device where the linear layers are kept meanwhile; without it they stay where they are. Equal to
    the plain network within rounding (5e-7 relative in float32). Raises ConfigError for no timesteps.
    """
    if not timesteps:
        raise ConfigError("timesteps: none; a table needs the timesteps of the run")
    some = network.proj_out.weight
    home, dtype = some.device, some.dtype
    # weights that are in a file come to where the timesteps are
    start = home if stored_of(some) is None else torch.device("cpu")
    known = torch.tensor(sorted(set(timesteps)), device=start)
    tables = _sizes(known, dtype) if known.is_meta else _results(network.temb(known, None, dtype))
    norms = [module for module in network.modules() if isinstance(module, ExpertNorm | FinalNorm)]
    layers = [norm.linear for norm in norms]

    def indices(timesteps: Tensor, ofs: Tensor | None, dtype: torch.dtype) -> Tensor:
        return torch.searchsorted(known, timesteps.to(known.dtype))[:, None]

    try:
        for norm, linear in zip(norms, layers, strict=True):
            norm.linear = ModulationTable(tables(linear))
            if park is not None:
                linear.to(park)
        network.temb = indices  # type: ignore[method-assign]
        yield
    finally:
        vars(network).pop("temb", None)
        for norm, linear in zip(norms, layers, strict=True):
            norm.linear = linear.to(home) if park is not None else linear


def _results(tembs: Tensor) -> Callable[[nn.Module], Tensor]:
    return lambda linear: cast(Tensor, linear(tembs))


def _sizes(timesteps: Tensor, dtype: torch.dtype) -> Callable[[nn.Module], Tensor]:
    """On the meta device sizes are all there is; to run layers there reads in torch's compiler, a second."""
    return lambda linear: timesteps.new_empty(
        len(timesteps), cast(nn.Linear, linear).out_features, dtype=dtype
    )
