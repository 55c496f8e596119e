"""Of trajectory distribution matching: what a step draws, and the loss that pulls the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogvideox.noise import generator, normal
from cogvideox.training.tasks.diffusion_batches import DiffusionSample


class Draws:
    """Everything that a step of matching draws: a function of the seed and of each sample's number in the run."""

    def __init__(self, seed: int, samples: range, batch: Sequence[DiffusionSample]) -> None:
        self.seed, self.samples, self.batch = seed, samples, batch

    def noise(self, purpose: str) -> list[Tensor]:
        """Fresh noise for each clip."""
        drawn = zip(self.samples, self.batch, strict=True)
        return [normal(s.noise.shape, self.seed, purpose, n).to(s.noise.device) for n, s in drawn]

    def steps(self, count: int, purpose: str) -> list[int]:
        """A step for each clip; neighbouring samples take different ones."""
        turn = int(torch.randint(count, (1,), generator=generator(self.seed, purpose, self.samples.start)))
        return [(turn + number) % count for number in self.samples]

    def times(self, least: Sequence[int], top: int, purpose: str) -> list[int]:
        """A time for each clip, from its least one to below ``top``."""
        found = []
        for number, low in zip(self.samples, least, strict=True):
            source = generator(self.seed, f"{purpose} time", number)
            found.append(low + int(torch.randint(max(top - low, 1), (1,), generator=source)))
        return found


def pulled(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The student's loss of one clip: its gradient pulls ``x0`` from the fake score's estimate to the teacher's.

    Pseudo-Huber with a tiny bend, so in effect the sign of the difference, over its size where the teacher stands.
    """
    with torch.no_grad():
        aim = x0 + real - fake
        size = (x0 - real).abs().mean().clamp(1e-3, 5)
        bend = 1e-3 * x0.numel() ** -0.5
    distance = ((x0 - aim).square() + bend**2).sqrt() - bend
    return distance.mean() / size
