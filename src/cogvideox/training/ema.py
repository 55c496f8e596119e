"""Exponential moving average (EMA) of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cogvideox.parallel.shard import local_shard, to_local


class EMA:
    """Exponential moving average of the weights that are trained; its decay warms up as min(decay, (1 + n) / (10 + n)).

    Frozen weights are not copied: an adapter's average is as small as the adapter. Of sharded weights each process
    averages its own shard.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.values = {name: p.detach().clone() for name, p in _trained(module)}

    @torch.no_grad()
    def update(self) -> None:
        """Average the weights as they are now into the EMA; the first call copies them."""
        now = [to_local(p.detach()) for _, p in _trained(self.module)]
        values = [to_local(value) for value in self.values.values()]
        n = float(self.count)
        if self.count:
            torch._foreach_lerp_(values, now, 1 - min(self.decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(values, now)
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The module with the averaged weights; they are swapped back on exit."""
        training = {child: child.training for child in self.module.modules()}
        self._swap()
        try:
            yield self.module
        finally:
            self._swap()
            for child, was in training.items():
                child.training = was

    @torch.no_grad()
    def _swap(self) -> None:
        """In place: FSDP2 gathers weights from the memory it knows."""
        for name, p in _trained(self.module):
            weight, average = to_local(p.detach()), to_local(self.values[name])
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the count of updates and the averaged weights."""
        return {"count": self.count, "values": dict(self.values)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken; whole and sharded states fit both."""
        self.count = int(state["count"])
        for name, value in self.values.items():
            to_local(value).copy_(local_shard(state["values"][name], value))


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]
