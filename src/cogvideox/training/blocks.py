"""Memory for work and work for time, put on the blocks of a network from outside; names of weights do not change."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from cogvideox.errors import ConfigError


def recompute_blocks(network: nn.Module) -> None:
    """Each block keeps its input alone and runs again on the way back: the same gradients, a third more work."""
    for block in _blocks(network):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(network: nn.Module) -> None:
    """Each block through torch.compile; shapes may change from row to row."""
    for block in _blocks(network):
        block.compile(dynamic=True)


def _blocks(network: nn.Module) -> nn.ModuleList:
    blocks = getattr(network, "transformer_blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ConfigError(
            f"{type(network).__name__} has no transformer_blocks; turn recompute and compile off"
        )
    return blocks
