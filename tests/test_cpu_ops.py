"""Matrix products in half precision on a processor that has no units for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cogvideox.cpu_ops import Linear, conv3d, half_is_native, via_float32
from cogvideox.text import T5Config, T5Encoder
from cogvideox.transformer import Transformer, initialise
from support.models import small_preset

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def without_units(monkeypatch):
    """Types that linear layers compute in, on a CPU that knows float32 alone."""
    seen = set()
    plain = F.linear
    monkeypatch.setattr("cogvideox.cpu_ops.half_is_native", lambda dtype: False)
    monkeypatch.setattr(F, "linear", lambda x, *rest: seen.add(x.dtype) or plain(x, *rest))
    return seen


@pytest.mark.parametrize("dtype", HALVES)
def test_a_product_through_float32_is_the_float32_product_rounded_once(dtype, without_units):
    x, layer = torch.randn(5, 16).to(dtype), Linear(16, 8).to(dtype)
    exact = torch.addmm(layer.bias.float(), x.float(), layer.weight.float().T).to(dtype)
    torch.testing.assert_close(layer(x), exact, atol=0, rtol=2**-7)
    assert without_units == {torch.float32} and layer(x).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_a_transformer_without_units_computes_its_products_in_float32(dtype, without_units):
    net = initialise(Transformer(small_preset("5b").transformer), 0).eval()
    x, text, time = torch.randn(1, 16, 3, 8, 12), torch.randn(1, 6, 12), torch.tensor([500])
    with torch.no_grad():
        expected = net(x, text, time)
        without_units.clear()
        found = net.to(dtype)(x.to(dtype), text.to(dtype), time)
    assert without_units == {torch.float32} and found.dtype == dtype
    assert (found.float() - expected).square().mean().sqrt() <= 0.03 * expected.std()


def test_float32_and_mixed_types_are_left_alone(without_units):
    layer = Linear(4, 4)
    layer(torch.randn(2, 4))
    assert without_units == {torch.float32}
    with pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(2, 4).bfloat16())


def test_gradients_pass_through(without_units):
    layer = Linear(4, 3).bfloat16()
    layer(torch.randn(2, 4).bfloat16()).sum().backward()
    assert layer.weight.grad.dtype == torch.bfloat16 and bool(layer.weight.grad.any())


def test_networks_have_no_linear_layer_of_another_kind():
    with torch.device("meta"):
        parts = Transformer(small_preset("1.5-5b").transformer), T5Encoder(T5Config(num_layers=1))
    layers = [m for part in parts for m in part.modules() if isinstance(m, nn.Linear)]
    assert layers and all(type(layer) is Linear for layer in layers)


def test_this_processor_is_asked_for_its_units():
    assert all(isinstance(half_is_native(dtype), bool) for dtype in HALVES)
    x = torch.randn(2, 3)
    assert torch.equal(via_float32(F.linear, x, x, None), F.linear(x, x))


SMALL_CONVOLUTIONS = [
    ((1, 3, 4, 6, 5), (4, 3, 3, 3, 3), (1, 1, 1)),
    ((2, 8, 1, 7, 7), (4, 8, 1, 3, 3), (1, 2, 2)),
]


@pytest.mark.parametrize("shape, kernel, stride", SMALL_CONVOLUTIONS)
def test_a_small_convolution_equals_torchs_own_and_so_do_its_gradients(shape, kernel, stride):
    given = [torch.randn(size, requires_grad=True) for size in (shape, kernel, kernel[:1])]
    ours, theirs = (op(*given, stride=stride, padding=(0, 1, 1)) for op in (conv3d, F.conv3d))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    pull = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((y * pull).sum(), given) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_small_convolutions_are_not_unrolled_on_a_cpu():
    x, weight = (torch.randn(size) for size in SMALL_CONVOLUTIONS[0][:2])
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        conv3d(x, weight)
    names = {event.key for event in seen.key_averages()}
    assert "aten::mkldnn_convolution" in names and not any("slow_conv3d" in name for name in names)
