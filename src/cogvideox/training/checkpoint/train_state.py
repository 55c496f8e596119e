"""What a state holds of a run: trained weights, optimisers, EMA, critic, step guard, and facts about the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import CheckpointError
from cogvideox.parallel.shard import local_shard, shard_optimizer_state, to_local
from cogvideox.training.ema import EMA
from cogvideox.training.step_guard import Guard
from cogvideox.training.task import Task


class TrainState:
    """The parts of a run that move: ``state_dict`` collects them for a state, ``load_state_dict`` puts them back."""

    def __init__(
        self,
        task: Task,
        optimizers: Sequence[torch.optim.Optimizer],
        ema: EMA | None,
        guard: Guard,
        data_facts: dict[str, Any] | None,
        out: Path,
    ) -> None:
        self.task, self.optimizers, self.ema, self.guard = task, optimizers, ema, guard
        self.data_facts, self.out = data_facts, out

    def state_dict(self) -> dict[str, Any]:
        """All of it as a tree of plain values and tensors; weights that are frozen are left out."""
        return {
            "module": self._trained_weights(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.ema.state_dict() if self.ema is not None else None,
            "critic": dict(self.task.critic.state_dict()) if self.task.critic is not None else None,
            "guard": self.guard.state_dict(),
            **({"data": self.data_facts} if self.data_facts is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises CheckpointError when it is of another network."""
        self._load_weights(state["module"])
        if self.task.critic is not None:
            self.task.critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(shard_optimizer_state(saved, optimizer))
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])

    def _frozen(self) -> set[str]:
        return {name for name, weight in self.task.module.named_parameters() if not weight.requires_grad}

    def _trained_weights(self) -> dict[str, Tensor]:
        frozen = self._frozen()
        return {name: value for name, value in self.task.module.state_dict().items() if name not in frozen}

    @torch.no_grad()
    def _load_weights(self, saved: dict[str, Any]) -> None:
        own, known = self._trained_weights(), saved.keys() - self._frozen()
        if own.keys() != known:
            names = ", ".join(sorted(own.keys() ^ known)[:3])
            raise CheckpointError(f"{self.out}: its state is of another network: {names} do not match")
        for name, value in own.items():
            if value.shape != saved[name].shape:
                raise CheckpointError(
                    f"{self.out}: its state is of another network: {name} is {tuple(saved[name].shape)} there and "
                    f"{tuple(value.shape)} here"
                )
            to_local(value).copy_(local_shard(saved[name], value))
