"""What a transformer is measured with while it trains: fixed clips, times and noise, in pieces that ranks can share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cogvideox.diffusion import Schedule
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher, velocity_errors

BANDS = (100, 300, 500, 700, 900)  # the timesteps of Table 9, of 1000
ROW = 16  # clips of one shape that are measured at once


class HeldOut:
    """Velocity error in five bands, on fixed (clip, timestep, noise) triples; a piece is some clips in one band."""

    def __init__(self, examples: DiffusionBatcher, schedule: Schedule) -> None:
        self.examples, self.schedule = examples, schedule
        total = schedule.config.num_train_timesteps
        self.bands = [share * total // 1000 for share in BANDS]
        self.pieces = [(band, row) for band in self.bands for row in _alike(examples)]

    @torch.no_grad()
    def measure(self, module: nn.Module, piece: int) -> tuple[float, float]:
        """(sum of the errors of a piece, its clips)."""
        band, row = self.pieces[piece]
        times = torch.full((len(row),), band)
        errors = velocity_errors(module, self.schedule, self.examples.fixed(row), times)
        return float(errors.double().sum()), float(len(row))

    def figures(self, found: Sequence[Sequence[float]]) -> dict[str, float]:
        """The mean of every band, and that of the bands, from what all pieces gave in order."""
        means = {}
        for band in self.bands:
            mine = [values for (other, _), values in zip(self.pieces, found, strict=True) if other == band]
            means[f"held_out_{band}"] = sum(error for error, _ in mine) / sum(clips for _, clips in mine)
        return means | {"held_out": sum(means.values()) / len(means)}


def _alike(examples: DiffusionBatcher) -> list[list[int]]:
    """All clips, in groups of one shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for one in range(len(examples.clips)):
        groups.setdefault(examples.clips.shape(one), []).append(one)
    return [group[at : at + ROW] for group in groups.values() for at in range(0, len(group), ROW)]
