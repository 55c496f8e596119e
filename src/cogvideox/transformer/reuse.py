"""Reuse of residuals: steps at which the blocks are left out, since what they add changes little between steps.

The residual of the blocks, blocks(x) - x, of one step stands for that of a later one. Three rules choose the steps:

- calibrated (MagCache, arXiv 2506.09045, found that the best factor belongs to the model and hardly to the prompt): the
  factor and what it leaves wrong are measured beforehand for every pair of steps (``generation.residual_reuse``).
- ``tea_factors`` (TeaCache, arXiv 2411.19108): the distance of the time embeddings is added up until it is large.
- ``first_block_cached`` (ParaAttention, diffusers): the first block is computed, and where its own residual is near the
  one before, the residual of all others is taken from there.

The first two know the steps before a run, for every prompt. Each run of a sampler starts with nothing kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cogvideox.errors import ConfigError
from cogvideox.transformer.calls import sampler_call
from cogvideox.transformer.layout import Layout
from cogvideox.transformer.transformer import Transformer

Residual = Float[Tensor, "b n d"]
Kept = TypeVar("Kept")


class CallSlot(NamedTuple):
    """What tells the calls of one step apart: the branches in the batch, and the window they are about."""

    branches: tuple[str, ...]
    window: tuple[int, ...]


class StepMemory(Generic[Kept]):
    """What is kept between the steps of a run for each batch of branches in each window, and the steps that were
    skipped.

    Everything is forgotten when a new run begins: a call of an earlier step, or of the same step and slot again.
    """

    def __init__(self) -> None:
        self.kept: dict[CallSlot, Kept] = {}
        self.skipped: list[int] = []
        self.step, self.seen = -1, set[CallSlot]()

    def begin(self) -> tuple[int, CallSlot, bool]:
        """The step and the slot of the call that begins, and whether it is the first one of its step and window."""
        call = sampler_call()
        slot = CallSlot(call.branches, call.window)
        if call.step < self.step or (call.step == self.step and slot in self.seen):
            self.kept.clear()
            self.skipped.clear()
            self.step = -1
        if call.step != self.step:
            self.step, self.seen = call.step, set()
        first = all(other.window != slot.window for other in self.seen)
        self.seen.add(slot)
        return call.step, slot, first

    def skip(self, step: int) -> None:
        """Note that the blocks of this step were left out."""
        if step not in self.skipped:
            self.skipped.append(step)


@contextmanager
def reusing(network: Transformer, factors: Sequence[float | None]) -> Iterator[list[int]]:
    """Inside, step i computes the blocks (None), or multiplies the last residual; gives the list of skipped steps.

    For inference only; what the blocks read is written over. Raises ConfigError when the first step is not computed.
    """
    if not factors or factors[0] is not None:
        raise ConfigError("reuse: the first step has no residual to reuse; compute it")
    run_blocks: Callable[..., Residual] = network.run_blocks
    memory = StepMemory[Residual]()

    def reused(x: Residual, *rest: object) -> Residual:
        step, slot, _ = memory.begin()
        factor, before = factors[step], memory.kept.get(slot)
        if factor is not None and before is not None:
            memory.skip(step)
            return torch.add(x, before, alpha=factor)
        memory.kept.pop(slot, None)
        before = None  # freed before the blocks need memory
        start = x.clone() if step + 1 < len(factors) and factors[step + 1] is not None else None
        out = run_blocks(x, *rest)  # written over x
        if start is not None:
            memory.kept[slot] = torch.sub(out, start, out=start)
        return out

    with replacing_blocks(network, reused):
        yield memory.skipped


@torch.no_grad()
def tea_factors(
    network: Transformer, times: Sequence[int], threshold: float, polynomial: Sequence[float]
) -> list[float | None]:
    """TeaCache's choice of steps, as factors for ``reusing``: 1 where the last residual is reused, None elsewhere.

    The relative change of the time embedding, mean|e_t - e_before| / mean|e_before|, goes through ``polynomial``
    (highest power first) and is added up; a step at which the sum reaches ``threshold`` is computed, as are the first
    and the last one, and the sum starts again from 0.
    """
    some = network.proj_out.weight
    embeddings = network.time_emb(torch.tensor(list(times), device=some.device), None, some.dtype).float()
    changes = (embeddings[1:] - embeddings[:-1]).abs().mean(1) / embeddings[:-1].abs().mean(1)
    return skips_of(changes.tolist(), threshold, polynomial)


def skips_of(changes: Sequence[float], threshold: float, polynomial: Sequence[float]) -> list[float | None]:
    """The same from the relative changes between neighbouring steps: one factor more than there are changes."""
    factors: list[float | None] = [None]
    total = 0.0
    for change in changes:
        value = 0.0
        for coefficient in polynomial:
            value = value * change + coefficient
        total += value
        computed = total >= threshold or len(factors) == len(changes)
        factors.append(None if computed else 1.0)
        total = 0.0 if computed else total
    return factors


@dataclass(frozen=True)
class FirstBlock:
    """What a computed step leaves: the residual of the first block on video tokens, and that of all others."""

    first: Residual
    others: Residual


@contextmanager
def first_block_cached(network: Transformer, threshold: float) -> Iterator[list[int]]:
    """Inside, a step whose first block changes little computes no other; gives the list of skipped steps.

    Little: mean|r - r_before| / mean|r_before| <= threshold, r being the residual of the first block on video tokens
    and r_before that of the last computed step. Where several calls make a step (guidance in sequence) the first one
    decides for all, so that the answers are equally old; each window decides for itself. For inference only. Waits for
    the device at each step.
    """
    run_blocks: Callable[..., Residual] = network.run_blocks
    memory = StepMemory[FirstBlock]()
    skips: dict[tuple[int, ...], bool] = {}

    def cached(
        x: Residual, temb: Tensor, rotary_emb: Complex[Tensor, "n 1 e_half"] | None, layout: Layout
    ) -> Residual:
        step, slot, first = memory.begin()
        kept, words = memory.kept.get(slot), layout.clips[0].text_len
        start = x[:, words:].clone()
        x = run_blocks(x, temb, rotary_emb, layout, 0, 1)  # written over x
        residual = torch.sub(x[:, words:], start, out=start)
        if first:
            skips[slot.window] = kept is not None and _is_near(residual, kept.first, threshold)
        if skips[slot.window] and kept is not None:
            memory.skip(step)
            return x.add_(kept.others)
        memory.kept.pop(slot, None)
        kept = None  # freed before the blocks need memory
        head = x.clone()
        out = run_blocks(x, temb, rotary_emb, layout, 1, None)  # written over x
        memory.kept[slot] = FirstBlock(residual, torch.sub(out, head, out=head))
        return out

    with replacing_blocks(network, cached):
        yield memory.skipped


def _is_near(now: Residual, before: Residual, threshold: float) -> bool:
    """Whether the mean change is at most ``threshold``; NaN is not, and tensors without values never are."""
    if now.is_meta:
        return False
    return bool((now - before).abs().mean() / before.abs().mean() <= threshold)


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
