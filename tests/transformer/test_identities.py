"""Identities that need no golden numbers: packed = separate, split = full where they must agree, symmetry."""

import itertools

import pytest
import torch
from torch import Tensor

from cogvideox.memory.count import count
from cogvideox.transformer import Experts, Transformer, TransformerConfig
from cogvideox.transformer.attention import full_attention, split_attention
from cogvideox.transformer.layout import ClipTokens, TokenGrid

SMALL = dict(
    num_attention_heads=2, attention_head_dim=32, num_layers=2, in_channels=4, out_channels=4,
    time_embed_dim=16, text_embed_dim=12, max_text_seq_length=5, sample_height=8, sample_width=12,
    sample_frames=9,
)  # fmt: skip
POSITIONS = {
    "none": dict(use_positional_embeddings=False),
    "sinusoidal": {},
    "rotary": dict(use_rotary_positional_embeddings=True),
}
EXPERTS = [Experts(norm=norm, weights=weights) for norm in (False, True) for weights in (False, True)]
TEXTS = (5, 3, 2)


def small(**settings):
    torch.manual_seed(0)
    return Transformer(TransformerConfig(**SMALL | settings)).eval()


def clips(sizes):
    torch.manual_seed(1)
    texts = [torch.randn(text_len, 12) for text_len in TEXTS]
    return [torch.randn(4, *size) for size in sizes], texts[: len(sizes)]


@torch.no_grad()
def assert_packed_equals_separate(model, sizes):
    latents, texts = clips(sizes)
    times = torch.tensor([3, 500, 999])[: len(sizes)]
    for v, x, text, t in zip(model.forward_packed(latents, texts, times), latents, texts, times, strict=True):
        assert v.shape == x.shape
        assert torch.allclose(v, model(x[None], text[None], t[None])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "position", "experts"),
    list(itertools.product(["full", "split"], POSITIONS, EXPERTS)),
    ids=str,
)
def test_packed_rows_equal_separate_rows(attention, position, experts):
    model = small(attention=attention, experts=experts, **POSITIONS[position])
    assert_packed_equals_separate(model, [(3, 8, 12), (1, 4, 6), (2, 12, 4)])


@pytest.mark.parametrize("mode", ["slice", "resample"])
def test_packed_rows_equal_separate_rows_in_both_rotary_modes(mode):
    model = small(**POSITIONS["rotary"], position_mode=mode)
    assert_packed_equals_separate(model, [(2, 6, 6), (3, 10, 4)])


def test_packed_rows_equal_separate_rows_with_patches_in_time_and_ofs():
    model = small(**POSITIONS["rotary"], patch_size_t=2, ofs_embed_dim=16)
    assert_packed_equals_separate(model, [(4, 8, 12), (2, 4, 6)])


def test_packed_clips_do_not_see_each_other():
    model = small(**POSITIONS["rotary"])
    latents, texts = clips([(1, 4, 4), (1, 4, 4)])
    latents[0].requires_grad_()
    model.forward_packed(latents, texts, torch.tensor([1, 2]))[1].sum().backward()
    assert latents[0].grad is None or not latents[0].grad.any()


def heads(text_len, t, h, w):
    torch.manual_seed(0)
    return [torch.randn(2, 3, text_len + t * h * w, 8) for _ in range(3)], ClipTokens(
        text_len, TokenGrid(t, h, w)
    )


def test_split_attention_of_one_frame_is_full_attention():
    (q, k, v), clip = heads(4, 1, 3, 5)
    assert torch.allclose(split_attention(q, k, v, clip), full_attention(q, k, v, clip), atol=1e-6)


def test_split_attention_of_one_place_without_text_is_full_attention():
    (q, k, v), clip = heads(0, 6, 1, 1)
    assert torch.allclose(split_attention(q, k, v, clip), full_attention(q, k, v, clip), atol=1e-6)


def test_split_attention_gives_text_what_full_attention_gives_it():
    (q, k, v), clip = heads(4, 3, 2, 2)
    split, full = split_attention(q, k, v, clip), full_attention(q, k, v, clip)
    assert torch.equal(split[:, :, :4], full[:, :, :4])
    assert not torch.allclose(split[:, :, 4:], full[:, :, 4:], atol=1e-3)


def test_split_attention_spreads_a_place_by_its_row_and_column_alone():
    (q, k, v), clip = heads(0, 3, 2, 2)
    v.requires_grad_()
    split_attention(q, k, v, clip)[0, 0, 0].sum().backward()  # the token at t=0, place 0
    reached = v.grad[0, 0].abs().sum(-1) > 0
    assert reached.all(), "my frame, then my place: every frame's tokens are reached through my place in it"
    assert not v.grad[1].any()


def test_split_attention_has_the_weights_of_full_attention():
    assert small(attention="split").state_dict().keys() == small().state_dict().keys()


def test_without_positions_and_text_a_transposed_video_gives_the_transposed_answer():
    model = small(use_positional_embeddings=False, patch_size=1)
    latents, text = torch.randn(1, 4, 2, 4, 6), torch.randn(1, 5, 12)
    with torch.no_grad():
        v, other = (model(x, text, torch.tensor([7])) for x in (latents, latents.transpose(3, 4)))
    assert torch.allclose(v, other.transpose(3, 4), atol=1e-5)


def test_a_batch_equals_its_samples():
    model = small(**POSITIONS["rotary"])
    latents, text, times = torch.randn(2, 4, 3, 8, 12), torch.randn(2, 5, 12), torch.tensor([10, 900])
    with torch.no_grad():
        both = model(latents, text, times)
        each = [model(latents[i : i + 1], text[i : i + 1], times[i : i + 1]) for i in range(2)]
    assert torch.allclose(both, torch.cat(each), atol=1e-5)


def test_gradients_reach_the_text_and_every_weight():
    model = small(**POSITIONS["rotary"], experts=Experts(weights=True))
    text = torch.randn(1, 5, 12, requires_grad=True)
    model(torch.randn(1, 4, 2, 8, 12), text, torch.tensor([5])).square().mean().backward()
    assert text.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_and_keeps_its_dtype(dtype):
    model = small(**POSITIONS["rotary"])
    latents, text, time = torch.randn(1, 4, 2, 8, 12), torch.randn(1, 5, 12), torch.tensor([5])
    with torch.no_grad():
        full = model(latents, text, time)
        half = model.to(dtype)(latents.to(dtype), text.to(dtype), time)
    assert half.dtype == dtype
    assert (half.float() - full).abs().max() < 0.1


def test_split_attention_never_holds_its_scores():
    """At 480x720 torch's plain kernel, the only one for tensors of five dimensions, would write 26 GB of them."""
    clip = ClipTokens(226, TokenGrid(13, 30, 45))
    with torch.device("meta"):
        q, k, v = (
            torch.empty(2, clip.tokens, 48, 64, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)
        )
    assert count(lambda: split_attention(q, k, v, clip)).peak < 3.5e9


def test_split_attention_of_four_dimensions_is_that_of_five(monkeypatch):
    clip = ClipTokens(6, TokenGrid(3, 4, 5))
    q, k, v = (
        torch.randn(2, 2, clip.tokens, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    expected = split_attention(q, k, v, clip)
    monkeypatch.setattr(Tensor, "is_cpu", False)
    torch.testing.assert_close(split_attention(q, k, v, clip), expected, atol=1e-6, rtol=1e-5)
