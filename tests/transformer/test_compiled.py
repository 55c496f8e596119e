"""Compiled blocks give the numbers of plain ones; one of them is compiled for all."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from cogvideox.transformer import Transformer, initialise
from cogvideox.transformer.attention import full_attention
from cogvideox.transformer.compiled import (
    INDUCTOR_OPTIONS,
    GraphReplay,
    compiled,
    graph_replay,
    resolve_kernel,
)
from cogvideox.transformer.fused import COMPILED_FORMS, fused
from cogvideox.transformer.kernels import use_kernel
from cogvideox.transformer.layout import ClipTokens, TokenGrid
from cogvideox.transformer.modulation import tabulated
from support.models import small_preset

CLIP = ClipTokens(6, TokenGrid(3, 4, 6))


def network(name: str, layers: int = 3) -> Transformer:
    config = small_preset(name).transformer.model_copy(update={"num_layers": layers})
    return initialise(Transformer(config), 0).eval()


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 16, 3, 8, 12, generator=draw), torch.randn(2, 6, 12, generator=draw)


@torch.no_grad()
def test_one_block_is_compiled_whole_and_serves_all(inputs):
    net, times = network("5b"), torch.tensor([500, 500])
    with torch.random.fork_rng():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    attn_fn, backend = use_kernel(net, "fastest"), CompileCounterWithBackend("aot_eager")
    expected = net(*inputs, times)
    with tabulated(net, [500, 20]), compiled(net, 2, CLIP, backend), graph_replay(net) as launcher:
        found = net(*inputs, times)
        again = net(*inputs, times)
    assert backend.frame_count == 1  # no second graph: neither a break inside a block, nor one for each
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(found, again)
    assert isinstance(launcher, GraphReplay) and not launcher.recorded  # a CPU needs no recording
    assert all(block.attn1.attn_fn is attn_fn for block in net.transformer_blocks)
    assert torch.equal(net(*inputs, times), expected)


@torch.no_grad()
def test_compiled_blocks_keep_gelu_in_its_product_and_are_compiled_once(inputs):
    torch._dynamo.reset()
    net, times, seen = network("5b"), torch.tensor([500, 20]), []

    def backend(graph, example):
        seen.append([node.target for node in graph.graph.nodes])
        return graph.forward

    expected = net(*inputs, times)
    for _ in range(2):
        with fused(net, COMPILED_FORMS), compiled(net, 2, CLIP, backend):
            found = net(*inputs, times)
    assert len(seen) == 1 and torch._addmm_activation in seen[0]
    assert (
        found - expected
    ).abs().max() <= 1e-2 * expected.abs().max()  # a CPU has the erf form in this call


def test_the_options_for_inductor_are_known_to_it():
    with compiled(network("5b", 1), 2, CLIP):
        pass
    from torch._inductor import config

    assert all(name in config.get_config_copy() for name in INDUCTOR_OPTIONS)


def test_a_chosen_kernel_is_settled_before_compiling():
    net = network("2b", 1)
    assert resolve_kernel(use_kernel(net, "torch"), net, 2, CLIP) is full_attention
    assert resolve_kernel(full_attention, net, 2, CLIP) is full_attention
    half = network("2b", 1).bfloat16()
    q, k, v = (torch.randn(2, 2, CLIP.tokens, 16).bfloat16() for _ in range(3))
    attn_fn = resolve_kernel(use_kernel(half, "torch-float32"), half, 2, CLIP)
    torch.testing.assert_close(attn_fn(q, k, v, CLIP), full_attention(q, k, v, CLIP), atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.no_grad()
def test_recorded_launches_give_the_same_numbers(inputs):
    net, (x, text) = network("5b").cuda(), (each.cuda() for each in inputs)
    for time in (500, 20):
        expected = net(x, text, torch.tensor([time] * 2, device="cuda"))
        with graph_replay(net) as launcher:
            for _ in range(2):
                torch.testing.assert_close(net(x, text, torch.tensor([time] * 2, device="cuda")), expected)
        assert len(launcher.recorded) == 1
