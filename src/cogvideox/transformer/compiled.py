"""Compiled blocks and CUDA graphs: less time inside and between operations, the same numbers within rounding.

One block is compiled and its code serves all of them, so that compiling takes seconds whatever the depth. With short
sequences a GPU waits for its host; there all blocks are recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.transformer.attention import Attention, AttentionFn, Heads, full_attention
from cogvideox.transformer.attention_kernels import KERNELS
from cogvideox.transformer.kernels import Fastest, Named, random_heads
from cogvideox.transformer.layout import ClipTokens, Layout
from cogvideox.transformer.reuse import replacing_blocks
from cogvideox.transformer.transformer import Transformer

SHORT = 8192
"""Tokens of a batch up to which a GPU waits for its host; a guess until it is measured."""

INDUCTOR_OPTIONS = {"realize_reads_threshold": 8}
"""A value of up to so many inputs is computed by each kernel that reads it instead of being written: q and k are then
rotated where they are normalised, 2.85 GB between the products of a block of the 5B instead of 3.7."""


@contextmanager
def compiled(
    network: Transformer, batch: int, clip: ClipTokens, backend: str | Callable = "inductor"
) -> Iterator[None]:
    """Inside, the blocks of ``network`` are compiled, for batches of ``batch`` such clips; for inference.

    Attention gets one fixed kernel first, since nothing can be timed inside compiled code, and rotary positions are
    real numbers, since compilers know no complex ones.
    """
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    before = [each.attn_fn for each in attentions]
    attn_fns = {id(attn_fn): resolve_kernel(attn_fn, network, batch, clip) for attn_fn in before}
    for each in attentions:
        each.attn_fn = attn_fns[id(each.attn_fn)]
    options = INDUCTOR_OPTIONS if backend == "inductor" else None
    for block in network.transformer_blocks:
        block.compile(backend=backend, dynamic=False, options=options)
    if network.rotary:
        network.rotary.real = True
    try:
        yield
    finally:
        if network.rotary:
            network.rotary.real = False
        for block in network.transformer_blocks:
            block._compiled_call_impl = None
        for each, attn_fn in zip(attentions, before, strict=True):
            each.attn_fn = attn_fn


def resolve_kernel(attn_fn: AttentionFn, network: Transformer, batch: int, clip: ClipTokens) -> AttentionFn:
    """The kernel that ``attn_fn`` chooses for such a batch, as a plain function; other functions as they are."""
    if not isinstance(attn_fn, Fastest | Named):
        return attn_fn
    kernel = attn_fn.kernel_for(*random_heads(network, batch, clip.tokens, network.proj_out.weight.dtype))
    attn_fn.used.add(kernel.name)
    if kernel is KERNELS[0]:
        return full_attention

    def attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
        return kernel.run(q, k, v)

    return attention


@dataclass(frozen=True)
class _Graph:
    """A CUDA graph, the tensors it reads and writes, and what must live as long as it does."""

    graph: Any
    x: Tensor
    temb: Tensor
    out: Tensor
    held: tuple[Any, ...]


class GraphReplay:
    """Stands for ``run_blocks``: a CUDA graph, recorded at the first call of each shape and replayed by later ones.

    Inputs are copied into the graph's memory, results out of it. Long sequences and other devices run as usual.
    """

    def __init__(self, run_blocks: Callable[..., Tensor]) -> None:
        self.run_blocks = run_blocks
        self.recorded: dict[tuple, _Graph] = {}

    def __call__(
        self,
        x: Float[Tensor, "b n d"],
        temb: Tensor,
        rotary_emb: Tensor | None,
        layout: Layout,
        *span: int | None,
    ) -> Float[Tensor, "b n d"]:
        if not x.is_cuda or x.shape[0] * x.shape[1] > SHORT:
            return self.run_blocks(x, temb, rotary_emb, layout, *span)
        key = (x.shape, x.dtype, temb.shape, temb.dtype, layout, span)
        if key not in self.recorded:
            self.recorded[key] = self._record(x, temb, rotary_emb, layout, *span)
        graph = self.recorded[key]
        graph.x.copy_(x)
        graph.temb.copy_(temb)
        graph.graph.replay()
        return graph.out.clone()

    def _record(
        self, x: Tensor, temb: Tensor, rotary_emb: Tensor | None, layout: Layout, *span: int | None
    ) -> _Graph:
        x, temb = x.clone(), temb.clone()
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):  # libraries choose kernels and take their workspaces before
            for _ in range(2):
                self.run_blocks(x, temb, rotary_emb, layout, *span)
        torch.cuda.current_stream(x.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.run_blocks(x, temb, rotary_emb, layout, *span)
        return _Graph(graph, x, temb, out, (rotary_emb,))


@contextmanager
def graph_replay(network: Transformer) -> Iterator[GraphReplay]:
    """Inside, short sequences on a GPU replay all blocks as one CUDA graph. Weights must stay where they are."""
    replay = GraphReplay(network.run_blocks)
    with replacing_blocks(network, replay):
        yield replay
