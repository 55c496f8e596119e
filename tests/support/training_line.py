"""The smallest task there is: fit a line. A run of it takes milliseconds, for tests of the loop."""

from __future__ import annotations

import math

import torch
from torch import nn

from cogvideox.training.loop import TrainConfig
from cogvideox.training.optim import OptimConfig
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.task import Task, TaskConfig


class Line(TaskConfig):
    """Fit a line; in the steps of ``bad`` something is not finite."""

    kind: str = "Line"
    bad: tuple[int, ...] = ()
    where: str = "loss"

    def build(self, seed: int, steps: int | None = None):
        return LineTask(self)


class LineTask(Task):
    def __init__(self, config: Line) -> None:
        torch.manual_seed(0)
        self.config, self.module = config, nn.Linear(3, 1)

    def losses(self, step: int):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        if step in self.config.bad and self.config.where == "data":
            x[0, 0] = math.nan
        loss = (self.module(x) - x.sum(1, keepdim=True)).square().mean()
        if step in self.config.bad and self.config.where == "loss":
            loss = loss * math.inf
        if step in self.config.bad and self.config.where == "gradient":
            self.module.weight.register_hook(lambda grad: grad * math.nan)
            loss = loss + 0
        return {"loss": loss}

    def sample_names(self, micro_step: int) -> list[str]:
        return [f"line/{(micro_step * 8 + place) % 40}" for place in range(8)]

    def measure(self, module):
        return {}

    def export(self, module, folder) -> None:
        folder.mkdir(parents=True, exist_ok=True)


def run(out, steps=6, guard=None, save_every=1, **task) -> TrainConfig:
    return TrainConfig(
        name="line", task=Line(**task), out=str(out), steps=steps, optim=OptimConfig(lr=0.1, warmup=0, ema=0.9),
        save_every=save_every, log_every=1, guard=guard or GuardConfig(),
    )  # fmt: skip
