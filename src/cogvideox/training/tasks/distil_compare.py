"""What a student keeps of its teacher: videos of both from the same noise and prompts, compared as latents.

Distillation fails in known ways that a loss does not show: videos stand still, all noise ends in one video, colours
saturate. Each has a number here, 1 where the student is like its teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from cogvideox.noise import normal
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher, DiffusionSample
from cogvideox.training.tasks.distil_teacher import velocities

NOISES = 2
"""Videos of each prompt, from different noise."""

Velocity = Callable[[Sequence[DiffusionSample], Sequence[Tensor], Sequence[int]], list[Tensor]]
"""Samples, their noisy latents and times -> velocities."""
Move = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[int], Sequence[int | None]], list[Tensor]]
"""Latents, velocities, times and next times -> latents at the next times."""


def ends(
    velocity: Velocity, move: Move, samples: Sequence[DiffusionSample], times: Sequence[int]
) -> list[Tensor]:
    """The clean latents that deterministic steps through ``times`` end in, from the samples' noise."""
    x = [sample.noise.float() for sample in samples]
    count = len(samples)
    for start, end in zip(times, [*times[1:], None], strict=True):
        answers = velocity(samples, x, [start] * count)
        x = move(x, answers, [start] * count, [end] * count)
    return x


class Comparison:
    """``kept_motion``, ``kept_spread`` and ``kept_contrast``: ratios of student to teacher of the mean difference of
    neighbouring latent frames, of the distance of videos from different noise, and of the latents' deviation.
    ``teacher_distance``: how far the student's videos are from the teacher's, over the teacher's size.
    """

    width = 7

    def __init__(
        self,
        batcher: DiffusionBatcher,
        prompts: int,
        teacher: Velocity,
        move: Move,
        times: tuple[Sequence[int], Sequence[int]],
    ) -> None:
        self.teacher, self.move, self.times = teacher, move, times
        self.batches = [_samples(batcher, clip) for clip in range(min(prompts, len(batcher.clips)))]
        self._taught: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def measure(self, module: nn.Module, index: int) -> tuple[float, ...]:
        """(motion, spread, deviation) of the student's videos of one prompt, the same of the teacher's, distance."""
        device = next(module.parameters()).device
        samples = [sample.to(device) for sample in self.batches[index]]
        if index not in self._taught:
            self._taught[index] = [end.cpu() for end in ends(self.teacher, self.move, samples, self.times[1])]
        made = [end.cpu() for end in ends(partial(velocities, module), self.move, samples, self.times[0])]
        taught = self._taught[index]
        size = torch.stack(taught).square().mean().sqrt()
        distance = (torch.stack(made) - torch.stack(taught)).square().mean().sqrt() / size
        return (*_facts(made), *_facts(taught), float(distance))

    def figures(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """The figures of the class, over all prompts."""
        sums = [sum(values) for values in zip(*measured, strict=True)]
        names = ("kept_motion", "kept_spread", "kept_contrast")
        kept = {name: sums[at] / max(sums[at + 3], 1e-9) for at, name in enumerate(names)}
        return kept | {"teacher_distance": sums[6] / len(measured)}


def _samples(batcher: DiffusionBatcher, clip: int) -> list[DiffusionSample]:
    (sample,) = batcher.fixed([clip])
    shape = sample.noise.shape
    return [
        replace(sample, noise=normal(shape, 0, "student beside teacher", clip * NOISES + number))
        for number in range(NOISES)
    ]


def _facts(videos: Sequence[Tensor]) -> tuple[float, float, float]:
    """Mean difference of neighbouring latent frames, mean distance of the videos, deviation; latents [c, t, h, w]."""
    stacked = torch.stack(list(videos))
    motion = stacked.diff(dim=2).abs().mean() if stacked.shape[2] > 1 else stacked.new_zeros(())
    return float(motion), float(stacked.diff(dim=0).abs().mean()), float(stacked.std())
