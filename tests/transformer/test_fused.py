"""Blocks in fused forms give the numbers of plain ones, and leave what does not fit to them."""

from __future__ import annotations

import pytest
import torch

from cogvideox import gpu_kernels
from cogvideox.transformer import Transformer, initialise
from cogvideox.transformer.arms import mmdit_of_same_depth, without_experts
from cogvideox.transformer.fused import FORMS, MEASURED_ON, _trials, faster_forms, fused
from cogvideox.transformer.modulation import tabulated
from support.models import packed_inputs, small_preset, small_transformer

KERNELS = FORMS - {"gelu"}  # a CPU knows another GELU in its product
TIMES = torch.tensor([500, 20])


def network(name: str, arm=lambda config: config) -> Transformer:
    config = arm(small_preset(name).transformer.model_copy(update={"num_layers": 2}))
    net = initialise(Transformer(config), 0).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return net


def inputs():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 16, 3, 8, 12, generator=draw), torch.randn(2, 6, 12, generator=draw), TIMES


class Asked(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the kernels that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "cogvideox":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


ARMS = [("5b", None), ("2b", None), ("5b", without_experts), ("5b", mmdit_of_same_depth)]


@pytest.mark.parametrize("name, arm", ARMS)
@torch.no_grad()
def test_the_numbers_of_plain_blocks(name, arm):
    net = network(name, arm) if arm else network(name)
    expected = net(*inputs())
    with fused(net, KERNELS), Asked() as asked:
        found = net(*inputs())
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    own_weights = arm is mmdit_of_same_depth
    block_kernels = {"norm_modulate", "add_norm_modulate", "add_gated"}
    assert asked.names == (block_kernels if own_weights else block_kernels | {"norm_rotate"})
    assert torch.equal(net(*inputs()), expected)  # as before


@torch.no_grad()
def test_real_positions_take_the_plain_rotation():
    """A network whose blocks were compiled for training has them."""
    net = network("5b")
    expected = net(*inputs())
    net.rotary.real = True
    with fused(net, KERNELS), Asked() as asked:
        assert (net(*inputs()) - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert "norm_rotate" not in asked.names


@torch.no_grad()
def test_with_modulation_tables():
    net = network("5b")
    expected = net(*inputs())
    with tabulated(net, [500, 20]), fused(net, KERNELS):
        assert (net(*inputs()) - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_training_takes_the_plain_form():
    net = network("5b")
    expected = net(*inputs())
    expected.sum().backward()
    before = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    with fused(net, FORMS), Asked() as asked:
        found = net(*inputs())
        found.sum().backward()
    assert torch.equal(found, expected) and not asked.names
    assert all(torch.equal(one, weight.grad) for one, weight in zip(before, net.parameters(), strict=True))


@torch.no_grad()
def test_autocast_takes_the_plain_form():
    net = network("5b")
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(*inputs())
        with fused(net, FORMS), Asked() as asked:
            assert torch.equal(net(*inputs()), expected)
    assert not asked.names


@torch.no_grad()
def test_a_packed_sequence_takes_plain_blocks_and_rotates_fused():
    net, (clips, texts, times) = small_transformer().eval(), packed_inputs()
    expected = net.forward_packed(clips, texts, times)
    with fused(net, KERNELS):
        found = net.forward_packed(clips, texts, times)
    for one, two in zip(found, expected, strict=True):
        assert (one - two).abs().max() <= 2e-5 * two.abs().max()


@torch.no_grad()
def test_gelu_in_its_product():
    """A CPU has the erf form in this call: close, and the reason why a GPU is asked first."""
    net = network("5b")
    expected = net(*inputs())
    with fused(net, frozenset({"gelu"})):
        assert (net(*inputs()) - expected).abs().max() <= 1e-2 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_is_timed_is_the_same_work(dtype):
    torch.manual_seed(0)
    for name, (kernel, plain, tensors) in _trials(64, 2, True, torch.device("cpu"), dtype).items():
        one, two = (f(*(x.clone() for x in tensors)) for f in (kernel, plain))
        assert gpu_kernels._close(one, two), name


def test_nothing_is_timed_without_a_gpu():
    config = small_preset("5b").transformer
    assert faster_forms(config, torch.device("cpu"), torch.float32) == frozenset()
    assert MEASURED_ON.is_plain
