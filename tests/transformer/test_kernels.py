"""The choice of an attention kernel: right ones only, then the fastest."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from cogvideox.errors import ConfigError
from cogvideox.transformer import Transformer
from cogvideox.transformer.attention import attend_per_clip, full_attention
from cogvideox.transformer.attention_kernels import KERNELS, Kernel, in_float32
from cogvideox.transformer.kernels import Fastest, Named, use_kernel
from cogvideox.transformer.layout import ClipTokens, Layout, TokenGrid
from support.models import small_preset

CLIP = ClipTokens(4, TokenGrid(1, 2, 3))


def heads(dtype=torch.float32):
    return [torch.randn(2, 3, 10, 8, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3)]


def slowly(q, k, v):
    time.sleep(0.01)
    return F.scaled_dot_product_attention(q, k, v)


def kernel(name, run, **more):
    return Kernel(name, run, lambda q: True, **more)


PLAIN = kernel("plain", slowly)
FAST = kernel("fast", lambda q, k, v: F.scaled_dot_product_attention(q, k, v))


def broken(q, k, v):
    raise RuntimeError("no kernel image is available for this card")


def test_the_fastest_right_kernel_wins():
    assert Fastest(kernels=(PLAIN, FAST)).choose(*heads()).name == "fast"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda q, k, v: torch.full_like(q, float("nan")), "not finite"),
        (lambda q, k, v: 1.1 * F.scaled_dot_product_attention(q, k, v), "wrong"),
        (lambda q, k, v: q[:, :1], "wrong"),
        (broken, "no kernel image"),
    ],
)
def test_a_wrong_kernel_is_never_used_however_fast(bad, said):
    with pytest.warns(UserWarning, match=said):
        assert Fastest(kernels=(PLAIN, kernel("bad", bad))).choose(*heads()).name == "plain"


def test_an_approximation_is_used_only_when_asked_for():
    rough = kernel(
        "rough", lambda q, k, v: F.scaled_dot_product_attention(q, k, v) * 1.00005, approximate=True
    )
    assert Fastest(kernels=(PLAIN, rough)).choose(*heads()).name == "plain"
    assert Fastest(True, (PLAIN, rough)).choose(*heads()).name == "rough"


def test_a_shape_is_measured_once():
    calls = []

    def counting(q, k, v):
        calls.append(1)
        return slowly(q, k, v)

    attn_fn = Fastest(kernels=(kernel("counting", counting), FAST))
    attn_fn(*heads(), CLIP)
    measured = len(calls)
    attn_fn(*heads(), CLIP)
    assert len(calls) == measured and len(attn_fn.chosen) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_float32_equals_the_plain_one(dtype):
    q, k, v = heads(dtype)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(in_float32(q, k, v), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("grad", [True, False])
def test_a_network_gives_the_same_with_any_kernel(grad):
    net = Transformer(small_preset("5b").transformer).bfloat16()
    x, text = torch.randn(1, 16, 3, 8, 12).bfloat16(), torch.randn(1, 6, 12).bfloat16()
    plain = net(x, text, torch.tensor([5])).detach()
    attn_fn = use_kernel(net)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(net(x, text, torch.tensor([5])).detach(), plain, atol=3e-2, rtol=3e-2)
    assert {one.name for one in attn_fn.chosen.values()} <= {one.name for one in KERNELS}


def test_a_named_kernel_is_used_without_measuring_and_an_unknown_one_refused():
    net = Transformer(small_preset("5b").transformer)
    assert isinstance(use_kernel(net, "torch-float32"), Named)
    assert net.transformer_blocks[0].attn1.attn_fn.kernel.name == "torch-float32"
    net(torch.randn(1, 16, 3, 8, 12), torch.randn(1, 6, 12), torch.tensor([5]))  # float32: left to torch
    with pytest.raises(ConfigError, match="did you mean 'sage'"):
        use_kernel(net, "sag")


def test_split_attention_keeps_its_arm():
    config = small_preset("5b").transformer.model_copy(update={"attention": "split"})
    net = Transformer(config)
    use_kernel(net)
    assert not any(isinstance(block.attn1.attn_fn, Fastest) for block in net.transformer_blocks)


def test_nothing_is_measured_while_autograd_checkpointing_or_a_compiler_records():
    def refused(*given):
        raise AssertionError("measured")

    attn_fn, (q, k, v) = Fastest(kernels=(kernel("plain", full_plain), FAST)), heads()
    attn_fn.choose = refused
    q.requires_grad_()
    expected = full_plain(q, k, v)
    assert torch.equal(attn_fn(q, k, v, CLIP), expected)
    assert torch.equal(checkpoint(attn_fn, q, k, v, CLIP, use_reentrant=False), expected)
    assert torch.equal(torch.compile(attn_fn, backend="eager", fullgraph=True)(q, k, v, CLIP), expected)
    with torch.no_grad(), pytest.raises(AssertionError, match="measured"):
        attn_fn(q, k, v, CLIP)
    assert not attn_fn.chosen


def full_plain(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def test_flex_attention_is_tried_for_packed_sequences_only():
    tried = []

    def run(q, k, v, *layout):
        tried.append(len(layout))
        return attend_per_clip(full_attention, q, k, v, *layout) if layout else full_plain(q, k, v)

    slow = kernel("slow", run, packed=run, packed_only=True)
    attn_fn, layout = Fastest(kernels=(FAST, slow)), Layout.packed((2, 2), (TokenGrid(1, 1, 3),) * 2)
    assert attn_fn.choose(*heads()).name == "fast" and not tried
    attn_fn.choose_packed(*heads(), layout)
    assert set(tried) == {1}
    assert [one.name for one in KERNELS if one.packed_only] == ["flex"]
