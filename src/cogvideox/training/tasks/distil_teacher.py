"""The teacher of a distillation, moves between its times, and networks that share their weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cogvideox.diffusion import Schedule
from cogvideox.diffusion.hops import angle, hop, velocity_between
from cogvideox.training.tasks.diffusion_batches import DiffusionSample, predict


class Teacher:
    """A frozen network: velocities with guidance, as its samplers see them, or without."""

    def __init__(self, network: nn.Module, negative: Tensor, guidance: float | None) -> None:
        self.network, self.negative, self.guidance = network.eval().requires_grad_(False), negative, guidance

    @torch.no_grad()
    def __call__(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
    ) -> list[Tensor]:
        """Guided velocities, float32: v_0 + g (v_c - v_0)."""
        if self.guidance is None or self.guidance == 1:
            return self.unguided(batch, x, times)
        count = len(batch)
        without = [replace(sample, text=self.negative.to(sample.text)) for sample in batch]
        answers = predict(self.network, [*batch, *without], [*x, *x], on_device(x, [*times, *times]))
        pairs = zip(answers[:count], answers[count:], strict=True)
        return [none.float() + self.guidance * (v.float() - none.float()) for v, none in pairs]

    @torch.no_grad()
    def unguided(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
    ) -> list[Tensor]:
        """Velocities for the clips' texts alone, float32."""
        return [v.float() for v in predict(self.network, batch, x, on_device(x, times))]


class Levels:
    """Moves of lists of latents [c, t, h, w] between times of a schedule; None is the clean end."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._angles = [float(angle(float(level))) for level in schedule.alpha_bar]
        self._end = float(angle(float(schedule.final_alpha_bar)))

    def of(self, t: int | None) -> float:
        """The angle of a time."""
        return self._end if t is None else self._angles[t]

    def noised(self, batch: Sequence[DiffusionSample], times: Sequence[int]) -> list[Tensor]:
        """The clips at these times, float32."""
        pairs = zip(batch, times, strict=True)
        return [self.schedule.add_noise(s.clean[None].float(), s.noise[None], t)[0] for s, t in pairs]

    def hops(
        self,
        x: Sequence[Tensor],
        v: Sequence[Tensor],
        starts: Sequence[int],
        ends: Sequence[int | None],
    ) -> list[Tensor]:
        """DDIM steps of all the clips, each from its time to its own next one."""
        moves = zip(x, v, starts, ends, strict=True)
        return [hop(one, velocity, self.of(s), self.of(e)) for one, velocity, s, e in moves]

    def cleans(self, x: Sequence[Tensor], v: Sequence[Tensor], times: Sequence[int]) -> list[Tensor]:
        """The clean latents that velocities at these times point at."""
        return [self.schedule.clean(a[None], b[None], t)[0] for a, b, t in zip(x, v, times, strict=True)]

    def noises(self, x: Sequence[Tensor], v: Sequence[Tensor], times: Sequence[int]) -> list[Tensor]:
        """The noise that velocities at these times come from."""
        return [self.schedule.noise(a[None], b[None], t)[0] for a, b, t in zip(x, v, times, strict=True)]

    def velocities(self, batch: Sequence[DiffusionSample], times: Sequence[int]) -> list[Tensor]:
        """The true velocities of the clips at these times, float32."""
        pairs = zip(batch, times, strict=True)
        return [self.schedule.velocity(s.clean[None].float(), s.noise[None], t)[0] for s, t in pairs]

    def velocity_to(self, x: Tensor, clean: Tensor, t: int) -> Tensor:
        """The velocity that points from ``x`` at ``clean``: (cos x - clean) / sin; the sine of no time here is 0."""
        alpha, sigma = self.schedule.alpha_sigma(t, x[None])
        return (alpha * x.float() - clean.float()) / sigma


@torch.no_grad()
def two_steps_as_one(
    teacher: Teacher,
    levels: Levels,
    batch: Sequence[DiffusionSample],
    x: Sequence[Tensor],
    starts: Sequence[int],
    grid: Sequence[int],
) -> list[Tensor]:
    """The velocities that land from ``starts`` where two steps of the teacher do, whose times are ``grid``."""
    ahead = [*grid, None]
    at = [grid.index(t) for t in starts]
    middles, ends = [grid[n + 1] for n in at], [ahead[n + 2] for n in at]
    half = levels.hops(x, teacher(batch, x, starts), starts, middles)
    landed = levels.hops(half, teacher(batch, half, middles), middles, ends)
    return [
        velocity_between(one, there, levels.of(s), levels.of(e))
        for one, there, s, e in zip(x, landed, starts, ends, strict=True)
    ]


def velocities(
    module: nn.Module, samples: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
) -> list[Tensor]:
    """A network's velocities, float32."""
    return [v.float() for v in predict(module, samples, x, on_device(x, times))]


def on_device(x: Sequence[Tensor], times: Sequence[int]) -> Tensor:
    """Times as a tensor beside the latents."""
    return torch.tensor(times, device=x[0].device)


def shared_copy(network: nn.Module) -> nn.Module:
    """A second network with the very same tensors: adapters put on one are not on the other, and no memory is taken."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
