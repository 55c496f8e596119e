"""A packed row equals its clips run alone: outputs, gradients of every parameter, and nothing leaks."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from cogvideox.errors import ConfigError
from cogvideox.transformer import Layout, TokenGrid
from cogvideox.transformer.attention import attend_per_clip, full_attention
from cogvideox.transformer.attention_kernels import (
    KERNELS,
    Kernel,
    _block_mask,
    cumulative_lengths,
    flatten_batch,
)
from cogvideox.transformer.kernels import Fastest, Named, use_kernel
from support.models import gradients, packed_inputs, small_transformer


@pytest.mark.parametrize("attention", ["full", "split"])
@pytest.mark.parametrize("kernel", ["none", "torch", "fastest"])
def test_gradients_of_a_packed_row_are_those_of_its_clips(attention, kernel):
    network, (clips, texts, times) = small_transformer(attention=attention), packed_inputs()
    if kernel != "none":
        use_kernel(network, kernel)
    packed = network.forward_packed(clips, texts, times)
    alone = [
        network(clip[None], text[None], t[None])[0] for clip, text, t in zip(clips, texts, times, strict=True)
    ]
    for one, two in zip(packed, alone, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    together, apart = gradients(network, packed), gradients(network, alone)
    assert together.keys() == apart.keys()
    for name, value in together.items():
        assert torch.allclose(value, apart[name], atol=1e-5), name
        assert value.abs().max() > 0 or name.startswith("patch_embed.pos"), name


@pytest.mark.parametrize("disturbed", ["clip", "text", "time"])
def test_disturbing_one_clip_changes_no_other_bit(disturbed):
    network, (clips, texts, times) = small_transformer(), packed_inputs()
    with torch.no_grad():
        before = network.forward_packed(clips, texts, times)
        if disturbed == "clip":
            clips[1] = clips[1] + 100
        elif disturbed == "text":
            texts[1] = texts[1] - 50
        else:
            times[1] = 0
        after = network.forward_packed(clips, texts, times)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]


def heads(layout: Layout, rows: int = 2):
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(rows, 3, layout.tokens, 16, generator=draw) for _ in range(3)]


LAYOUT = Layout.packed((2, 0, 3), (TokenGrid(2, 3, 4), TokenGrid(1, 2, 2), TokenGrid(3, 1, 5)))


def test_the_boundaries_cut_rows_laid_end_to_end_into_their_clips():
    q, k, v = heads(LAYOUT)
    flat, starts = [flatten_batch(x) for x in (q, k, v)], cumulative_lengths(LAYOUT, 2, q.device)
    pieces = [
        full_attention(*(x[a:b].transpose(0, 1)[None] for x in flat), None)[0].transpose(0, 1)
        for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False)
    ]
    whole = torch.cat(pieces).unflatten(0, (2, -1)).transpose(1, 2)
    assert torch.allclose(whole, attend_per_clip(full_attention, q, k, v, LAYOUT), atol=1e-6)


def test_the_blocks_of_flex_attention_hold_pairs_of_one_clip():
    q, k, v = heads(LAYOUT)
    out = flex_attention(q, k, v, block_mask=_block_mask(LAYOUT, q.device))
    assert torch.allclose(out, attend_per_clip(full_attention, q, k, v, LAYOUT), atol=1e-5)


def test_a_kernel_for_whole_rows_is_tried_and_a_wrong_one_is_not_used():
    q, k, v = heads(LAYOUT)
    wrong = Kernel("wrong", full_plain, lambda q: True, packed=lambda q, k, v, layout: v * float("nan"))
    attn_fn = Fastest(kernels=(KERNELS[0], wrong))
    with pytest.warns(UserWarning, match="wrong"):
        out = attn_fn.packed(q, k, v, LAYOUT)
    assert torch.equal(out, attend_per_clip(full_attention, q, k, v, LAYOUT))
    seen = []
    right = Kernel(
        "right",
        full_plain,
        lambda q: True,
        packed=lambda *x: seen.append(1) or attend_per_clip(full_attention, *x),
    )
    assert torch.equal(Named(right).packed(q, k, v, LAYOUT), out) and seen


def full_plain(q, k, v):
    return full_attention(q, k, v, None)


def test_a_row_without_a_text_for_each_clip_is_refused():
    clips, texts, times = packed_inputs()
    with pytest.raises(ConfigError, match="4 clips, 3 texts"):
        small_transformer().forward_packed(clips, texts[:3], times)
