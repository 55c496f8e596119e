"""Reuse of residuals: steps at which the blocks are left out, since what they add changes little between steps.

The residual of the blocks, blocks(x) - x, of one step stands for that of a later one after a multiplication by a
number (MagCache, arXiv 2506.09045, found that the number belongs to the model and hardly to the prompt). The best
number and what it leaves wrong are measured beforehand for every pair of steps, so that the choice of steps is
known before a run, the same for every prompt and both answers of guidance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import ConfigError
from cogvideox.transformer.transformer import Transformer

Residual = Float[Tensor, "b n d"]


@contextmanager
def reusing(network: Transformer, factors: Sequence[float | None], branches: int = 1) -> Iterator[None]:
    """Inside, step i of every ``len(factors)`` computes the blocks (None), or multiplies the last residual.

    ``branches``: how many calls make one step (2: the pair of guidance in sequence). For inference only; what the
    blocks read is written over. Raises ConfigError when the first step is not computed.
    """
    if not factors or factors[0] is not None:
        raise ConfigError("reuse: the first step has no residual to reuse; compute it")
    run_blocks: Callable[..., Residual] = network.run_blocks
    kept: list[Residual | None] = [None] * branches
    total, calls = len(factors) * branches, 0

    def reused(x: Residual, *rest: object) -> Residual:
        nonlocal calls
        step, branch = divmod(calls % total, branches)
        calls += 1
        factor, before = factors[step], kept[branch]
        if factor is not None and before is not None:
            return torch.add(x, before, alpha=factor)
        kept[branch] = before = None  # before the blocks need memory
        start = x.clone() if step + 1 < len(factors) and factors[step + 1] is not None else None
        out = run_blocks(x, *rest)  # written over x
        if start is not None:
            kept[branch] = torch.sub(out, start, out=start)
        return out

    with replacing_blocks(network, reused):
        yield


@contextmanager
def replacing_blocks(network: Transformer, replacement: Callable[..., Residual]) -> Iterator[None]:
    """Inside, ``replacement`` is called in the place of ``network.run_blocks``. Nests: calls may wrap each other."""
    before = vars(network).get("run_blocks")
    network.run_blocks = replacement  # type: ignore[method-assign]
    try:
        yield
    finally:
        del network.run_blocks
        if before is not None:
            network.run_blocks = before  # type: ignore[method-assign]


@dataclass
class Measured:
    """For every step i and k = 1, 2, ...: the factor that makes the residual of step i - k that of step i, and
    the root mean square of what is then wrong, relative to the residual.
    """

    factors: list[list[float]] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)

    def add(self, now: Residual, before: Sequence[Residual]) -> None:
        """One more step; ``before`` holds the residuals of the steps before it, nearest first."""
        factors, errors = [], []
        for old in before:
            both, square = (now * old).sum(), old.square().sum()
            factor = (both / square).item()
            wrong = (now - factor * old).square().sum() / now.square().sum()
            factors.append(factor)
            errors.append(wrong.sqrt().item())
        self.factors.append(factors)
        self.errors.append(errors)


@contextmanager
def measuring(network: Transformer, reach: int) -> Iterator[Measured]:
    """Inside, every call of ``network`` is one step of a run, and its residual is compared with the ``reach``
    before it. The results of the network do not change.
    """
    run_blocks: Callable[..., Residual] = network.run_blocks
    measured, before = Measured(), deque[Residual](maxlen=reach)

    def watched(x: Residual, *rest: object) -> Residual:
        start = x.clone()
        out = run_blocks(x, *rest)  # written over x
        now = (out - start).float()
        measured.add(now, before)
        before.appendleft(now)
        return out

    with replacing_blocks(network, watched):
        yield measured
