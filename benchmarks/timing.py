"""How long: ours and diffusers in turns, so that a busy machine is busy for both."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time

import torch
from cases import Size, Work

CLOCKS = {"wall": perf_counter, "processor": process_time}


@dataclass(frozen=True)
class Timing:
    """Median seconds of each side, the median ratio of a pair, and how far their results are apart.

    The ratio is ours over diffusers: below 1, ours is faster. The two runs of a pair follow each other, so that a
    machine that becomes slower between pairs does not move it.
    """

    ours: float
    theirs: float
    ratio: float
    difference: float


def _seconds(work: Work, clock: str = "wall") -> float:
    start = CLOCKS[clock]()
    work()
    return CLOCKS[clock]() - start


@torch.inference_mode()
def measure(case, size: Size, repeats: int, clock: str = "wall") -> Timing:
    """Both sides in turns, ``repeats`` times after one run that warms up and is compared."""
    ours, theirs = case(size, "ours"), case(size, "diffusers")
    difference = (ours() - theirs()).abs().max().item()
    runs = [(_seconds(ours, clock), _seconds(theirs, clock)) for _ in range(repeats)]
    ours_took, theirs_took = (median(column) for column in zip(*runs, strict=True))
    return Timing(ours_took, theirs_took, median(a / b for a, b in runs), difference)
