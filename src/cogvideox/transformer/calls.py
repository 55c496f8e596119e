"""What a sampler asks a transformer: at which step, of which latents, which branches of guidance stand in its batch.

The sampler says it here, around its calls; what is put in place of blocks and layers from outside (``reuse``,
``skipping``, ``controlnet``, adapters whose strength changes) reads it. The network itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cogvideox.transformer.layout import Layout
from cogvideox.transformer.transformer import Transformer

SKIPPED = "skipped"
"""The branch that leaves blocks out; it stands last in a batch (``diffusion.Branch``)."""


@dataclass(frozen=True)
class SamplerCall:
    """One call: the step, from 0, of how many, and the branches whose answers the batch holds, in equal parts.

    ``latents``, ``text`` and ``timestep`` are the arguments of the network, ``latents`` without the channels of
    conditions; None where nobody said them. ``window``: the latent frames of a long video that it is about, where one
    is made in windows; () for all of them.
    """

    step: int = 0
    count: int = 1
    branches: tuple[str, ...] = ("prompt",)
    latents: Float[Tensor, "b c t h w"] | None = field(default=None, compare=False)
    text: Float[Tensor, "b l e"] | None = field(default=None, compare=False)
    timestep: Float[Tensor, "..."] | None = field(default=None, compare=False)
    window: tuple[int, ...] = ()


NO_CALL = SamplerCall()
_call: ContextVar[SamplerCall] = ContextVar("sampler call")


def sampler_call() -> SamplerCall:
    """The call that the network is in."""
    return _call.get(NO_CALL)


@contextmanager
def at_step(step: int, count: int = 1) -> Iterator[None]:
    """Inside, calls belong to this step of ``count``."""
    before = _call.set(replace(_call.get(NO_CALL), step=step, count=count))
    try:
        yield
    finally:
        _call.reset(before)


@contextmanager
def answering(
    branches: Sequence[str],
    latents: Float[Tensor, "b c t h w"] | None = None,
    text: Float[Tensor, "b l e"] | None = None,
    timestep: Float[Tensor, "..."] | None = None,
) -> Iterator[None]:
    """Inside, the batch of a call holds the answers for these branches; the rest as in ``SamplerCall``."""
    call = replace(
        _call.get(NO_CALL), branches=tuple(branches), latents=latents, text=text, timestep=timestep
    )
    before = _call.set(call)
    try:
        yield
    finally:
        _call.reset(before)


@contextmanager
def in_window(window: Sequence[int]) -> Iterator[None]:
    """Inside, calls are about these latent frames alone."""
    before = _call.set(replace(_call.get(NO_CALL), window=tuple(window)))
    try:
        yield
    finally:
        _call.reset(before)


@contextmanager
def skipping(network: Transformer, layers: Sequence[int]) -> Iterator[None]:
    """Inside, these blocks leave the tokens of the branch "skipped" as they are, text and video; for inference.

    Spatio-temporal guidance (arXiv 2411.18664). Not for compiled blocks.
    """
    blocks = [network.transformer_blocks[index] for index in layers]
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        vars(block)["forward"] = _for_others(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def _for_others(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block's forward for all but the last branch of a batch, where that is the skipped one."""

    def partly(
        x: Float[Tensor, "b n d"],
        temb: Float[Tensor, "b clips s"],
        rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
        layout: Layout,
    ) -> Float[Tensor, "b n d"]:
        branches = sampler_call().branches
        if branches[-1] != SKIPPED:
            return forward(x, temb, rotary_emb, layout)
        rows = len(x) // len(branches) * (len(branches) - 1)
        if rows == 0:
            return x
        out = forward(x[:rows], temb[:rows], rotary_emb, layout)
        return x if out.data_ptr() == x.data_ptr() else torch.cat([out, x[rows:]])  # blocks may write over x

    return partly
