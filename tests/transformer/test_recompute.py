"""What is computed again in the backward pass has the bits of what was kept, and is not kept."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from cogvideox import recompute
from cogvideox.errors import ConfigError
from cogvideox.memory.count import kept
from cogvideox.parallel.shard import checkpoint_blocks, compile_blocks
from cogvideox.recompute import keep_all, recomputable, recomputed
from cogvideox.transformer import Transformer, TransformerConfig
from support.models import SMALL_TRANSFORMER, gradients, packed_inputs, small_transformer


def rows_of(network: Transformer) -> list[torch.Tensor]:
    return network.forward_packed(*packed_inputs())


@pytest.mark.parametrize("settings", [{}, {"norm_elementwise_affine": False}, {"dropout": 0.1}])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_have_the_bits_of_a_pass_that_kept_everything(settings, precision):
    found = []
    for way in (keep_all, None):
        network = small_transformer(**settings).train()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            if way is None:
                outputs = rows_of(network)
            else:
                with way():
                    outputs = rows_of(network)
        found.append(gradients(network, outputs))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_more_than_a_third_is_not_kept():
    config = TransformerConfig(**SMALL_TRANSFORMER | dict(num_layers=6, attention_head_dim=64))
    with torch.device("meta"):
        network = Transformer(config)
        given = (torch.empty(1, 4, 5, 16, 24), torch.empty(1, 5, 12), torch.empty(1))
    less = kept(lambda: network(*given))
    with keep_all():
        more = kept(lambda: network(*given))
    assert less <= 0.65 * more


def test_a_second_way_back_finds_everything_again():
    x = torch.randn(5, 8, requires_grad=True)
    calls = []

    @recomputable
    def gelu(wide: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return F.gelu(wide)

    @recomputed
    def layer(wide: torch.Tensor) -> torch.Tensor:
        first, second = gelu(wide).split([2, 3])
        return first.square().sum() + second.square().sum()

    loss = layer(x * 2)
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x)
    (plain,) = torch.autograd.grad(F.gelu(x * 2).square().sum(), x)
    assert torch.equal(once, twice)
    assert torch.equal(once, plain)
    assert len(calls) == 1 + 2  # both views of one way back share what is computed


def test_nothing_holds_the_memory_of_what_is_recomputed(monkeypatch):
    seen = []
    add = recompute._Scope.add

    def noted(scope, result, *recipe):
        seen.append(StorageWeakRef(result.untyped_storage()))
        add(scope, result, *recipe)

    monkeypatch.setattr(recompute._Scope, "add", noted)
    outputs = rows_of(small_transformer().train())
    # of each layer: normed and modulated twice, q and k normed and rotated, GELU
    assert len(seen) == 9 * SMALL_TRANSFORMER["num_layers"]
    assert all(each.expired() for each in seen)
    sum(out.sum() for out in outputs).backward()


def test_recomputed_blocks_keep_their_inputs_alone():
    network = small_transformer().train()
    plain = gradients(network, rows_of(network))
    checkpoint_blocks(network.transformer_blocks)
    kept_wide = []
    for each in network.transformer_blocks:
        each.ff.net[0].register_forward_hook(
            lambda _, __, wide: kept_wide.append(StorageWeakRef(wide.untyped_storage()))
        )
    outputs = rows_of(network)
    assert all(each.expired() for each in kept_wide)
    found = gradients(network, outputs)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_recomputed_blocks_are_compiled_and_in_the_other_order_refused():
    torch._dynamo.reset()
    network, backend = small_transformer().train(), CompileCounterWithBackend("aot_eager")
    plain = gradients(network, rows_of(network))
    compile_blocks(network.transformer_blocks, backend)
    checkpoint_blocks(network.transformer_blocks)
    found = gradients(network, rows_of(network))
    assert backend.frame_count > 0
    assert all(torch.allclose(plain[name], found[name], atol=1e-5) for name in plain)
    with pytest.raises(ConfigError, match="compile_blocks first"):
        compile_blocks(network.transformer_blocks)


def noisy(network: Transformer) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {
        name: (value + 0.2 * torch.randn(value.shape, generator=draw)).detach().requires_grad_()
        for name, value in network.named_parameters()
    }


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return (
        torch.randn(1, 4, 3, 8, 12, generator=draw),
        torch.randn(1, 5, 12, generator=draw),
        torch.tensor([7]),
    )


def test_weights_that_are_lent_for_one_pass_are_those_of_its_way_back():
    network = small_transformer().train()
    found = []
    for way in (nullcontext, keep_all):
        weights = noisy(network)
        with way():
            out = functional_call(network, weights, given())
        found.append(torch.autograd.grad(out.square().mean(), list(weights.values())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_transforms_of_torch_func_work():
    network = small_transformer().train()

    def loss(weights):
        return functional_call(network, weights, given()).square().mean()

    weights = noisy(network)
    found = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_others_are_told_all_that_is_saved():
    network = small_transformer().train()
    told = []
    for way in (nullcontext, keep_all):
        sizes = []
        with way(), saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            network(*given())
        told.append(sizes)
    assert told[0] == told[1]


def test_checkpointing_around_the_model_keeps_no_activation():
    network = small_transformer().train()
    wide = []
    for each in network.transformer_blocks:
        each.ff.net[0].register_forward_hook(
            lambda _, __, x: wide.append(StorageWeakRef(x.untyped_storage()))
        )
    out = checkpoint(network, *given(), use_reentrant=False)
    assert wide and all(each.expired() for each in wide)
    out.sum().backward()


def test_experts_with_weights_of_their_own_are_recomputed_too():
    found = []
    for way in (nullcontext, keep_all):
        network = small_transformer(experts={"norm": True, "weights": True}).train()
        with way():
            outputs = rows_of(network)
        found.append(gradients(network, outputs))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_real_positions_give_the_gradients_of_complex_ones():
    found = []
    for real in (False, True):
        network = small_transformer().train()
        assert network.rotary is not None
        network.rotary.real = real
        found.append(gradients(network, rows_of(network)))
    assert all(torch.allclose(found[0][name], value, atol=1e-5) for name, value in found[1].items())
