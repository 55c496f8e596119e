"""Which noise level each training sample gets.

Samples are counted over the whole run. With ``intervals`` a time is a function of (seed, number of the sample) alone.
Without them it also depends on where the batch of the sample begins and on how many samples it has: for explicit
sampling that is the global batch of the step, for plain sampling the micro-step's. The number of processes never
matters: another cluster trains the same way, ranks that share a sample share its time, and a resumed run goes on in the
same stream.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.errors import ConfigError
from cogvideox.noise import generator


def uniform(
    samples: range, seed: int, num_train_timesteps: int = 1000, shift: float = 1.0
) -> Int[Tensor, " n"]:
    """Independent times of one micro-step, on the CPU; drawn from (seed, number of its first sample).

    ``shift``: see :func:`lean`; with 1 every time is equally likely.
    """
    draws = generator(seed, "plain timesteps", samples.start)
    times = torch.randint(num_train_timesteps, (len(samples),), generator=draws)
    within = torch.rand(len(samples), generator=draws, dtype=torch.float64)
    return lean(times + within, shift, num_train_timesteps).long().clamp_(max=num_train_timesteps - 1)


def explicit_uniform(
    samples: range,
    seed: int,
    intervals: int | None = None,
    num_train_timesteps: int = 1000,
    shift: float = 1.0,
) -> Int[Tensor, " n"]:
    """Explicit Uniform Sampling (paper section 2.4): the samples of a global batch cover the times evenly.

    ``intervals`` is the number n of equal parts of [0, T), the *virtual ranks*: every n consecutive samples of the
    run, counted from 0, hit each part once, in an order drawn anew. None takes one part for each of ``samples``,
    which must then be a whole global batch. Over many draws every time is exactly equally likely, also where n does
    not divide T: a time that two parts share is shared in proportion. ``shift`` other than 1: the parts, still equally
    likely, lean towards noise or away from it, see :func:`lean`. Raises ConfigError for less than one interval.

    differs from the paper: there rank i always draws from part i; here any sample may draw any part.
    """
    if intervals is None:
        return _cycle(seed, samples.start, len(samples), num_train_timesteps, shift)
    if intervals < 1:
        raise ConfigError(
            f"intervals {intervals}: [0, {num_train_timesteps}) needs at least one; choose 1 or more"
        )
    cycles = range(samples.start // intervals, -(-samples.stop // intervals))
    times = [_cycle(seed, cycle, intervals, num_train_timesteps, shift) for cycle in cycles]
    begin = samples.start - cycles.start * intervals
    return torch.cat(times)[begin : begin + len(samples)] if times else torch.empty(0, dtype=torch.long)


def lean(times: Float[Tensor, " n"], shift: float, num_train_timesteps: int = 1000) -> Float[Tensor, " n"]:
    """Times in [0, T) that lean towards noise: a share u of T becomes the share shift·u / (1 + (shift - 1)·u).

    With 3 half of them lie above 3/4 of T; below 1 they lean away from noise; with 1 all stay as they are (Esser et
    al. 2024, arXiv 2403.03206, equation 23). Times are real numbers, so that, floored afterwards, none is left out.
    """
    if shift == 1:
        return times
    share = times / num_train_timesteps
    return shift * share / (1 + (shift - 1) * share) * num_train_timesteps


def interval(index: int, intervals: int, num_train_timesteps: int = 1000) -> range:
    """The times that part ``index`` can give; lengths differ by at most one, neighbours share at most one time."""
    first = index * num_train_timesteps // intervals
    return range(first, -(-(index + 1) * num_train_timesteps // intervals))


def _cycle(seed: int, index: int, intervals: int, total: int, shift: float) -> Int[Tensor, " intervals"]:
    """One time from each part, in a drawn order."""
    draws = generator(seed, f"timesteps of {intervals}", index)
    order = torch.randperm(intervals, generator=draws)
    within = torch.rand(intervals, generator=draws, dtype=torch.float64)
    return lean((order + within) * total / intervals, shift, total).long().clamp_(max=total - 1)
