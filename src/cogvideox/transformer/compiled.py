"""Blocks compiled, and launched together: less time between and inside operations, the same numbers within rounding.

One block is compiled and its code serves all of them, so that compiling takes seconds whatever the depth. Short
sequences keep a GPU waiting for its host; there the launches of all blocks are recorded once as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.transformer.attention import Arm, Attention, Heads, full_attention
from cogvideox.transformer.kernels import KERNELS, Fastest, Named
from cogvideox.transformer.layout import ClipTokens, Layout
from cogvideox.transformer.reuse import instead_of_trunk
from cogvideox.transformer.transformer import Transformer

SHORT = 8192
"""Tokens of a batch up to which a GPU waits for its host; a guess until it is measured."""


@contextmanager
def compiled(
    network: Transformer, rows: int, clip: ClipTokens, backend: str | Callable = "inductor"
) -> Iterator[None]:
    """Inside, the blocks of ``network`` are compiled, for batches of ``rows`` such clips; for inference.

    A chosen attention kernel is settled first, since nothing can be measured inside compiled code.
    """
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    before = [each.arm for each in attentions]
    arms = {id(arm): settled(arm, network, rows, clip) for arm in before}
    for each in attentions:
        each.arm = arms[id(each.arm)]
    for block in network.transformer_blocks:
        block.compile(backend=backend, dynamic=False)
    try:
        yield
    finally:
        for block in network.transformer_blocks:
            block._compiled_call_impl = None
        for each, arm in zip(attentions, before, strict=True):
            each.arm = arm


def settled(arm: Arm, network: Transformer, rows: int, clip: ClipTokens) -> Arm:
    """The arm as one plain function: what ``arm`` would choose for such a batch."""
    if not isinstance(arm, Fastest | Named):
        return arm
    config, some = network.config, network.proj_out.weight
    shape = (rows, config.num_attention_heads, clip.tokens, config.attention_head_dim)
    q, k, v = (torch.randn(shape, device=some.device, dtype=some.dtype) for _ in range(3))
    kernel = arm.kernel_for(q, k, v)
    arm.used.add(kernel.name)
    if kernel is KERNELS[0]:
        return full_attention

    def attention(q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
        return kernel.run(q, k, v)

    return attention


@dataclass(frozen=True)
class _Recorded:
    """A CUDA graph, the tensors it reads and writes, and what must live as long as it does."""

    graph: Any
    x: Tensor
    signal: Tensor
    out: Tensor
    held: tuple[Any, ...]


class Launcher:
    """All blocks as one launch, recorded at the first call of each shape. Inputs are copied in, results out."""

    def __init__(self, trunk: Callable[..., Tensor]) -> None:
        self.trunk = trunk
        self.recorded: dict[tuple, _Recorded] = {}

    def __call__(
        self, x: Float[Tensor, "b n d"], signal: Tensor, turn: Tensor | None, layout: Layout
    ) -> Float[Tensor, "b n d"]:
        if not x.is_cuda or x.shape[0] * x.shape[1] > SHORT:
            return self.trunk(x, signal, turn, layout)
        key = (x.shape, x.dtype, signal.shape, signal.dtype, layout)
        if key not in self.recorded:
            self.recorded[key] = self._record(x, signal, turn, layout)
        made = self.recorded[key]
        made.x.copy_(x)
        made.signal.copy_(signal)
        made.graph.replay()
        return made.out.clone()

    def _record(self, x: Tensor, signal: Tensor, turn: Tensor | None, layout: Layout) -> _Recorded:
        x, signal = x.clone(), signal.clone()
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):  # kernels choose their ways and take their workspaces before
            for _ in range(2):
                self.trunk(x, signal, turn, layout)
        torch.cuda.current_stream(x.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.trunk(x, signal, turn, layout)
        return _Recorded(graph, x, signal, out, (turn,))


@contextmanager
def launched(network: Transformer) -> Iterator[Launcher]:
    """Inside, short sequences on a GPU run all blocks as one launch. Weights must stay where they are."""
    launcher = Launcher(network.trunk)
    with instead_of_trunk(network, launcher):
        yield launcher
