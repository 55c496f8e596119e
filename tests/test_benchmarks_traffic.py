"""Calls and bytes moved, as ``benchmarks/traffic.py`` counts them, against figures computed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from support.benchmarks import benchmark

count = benchmark("traffic").count


def empty(*shape: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_matrix_product(device):
    a, b = empty(4, 6, device=device), empty(6, 10, device=device)
    cost = count(lambda: a @ b)
    assert (cost.calls, cost.flops, cost.traffic) == (1, 2 * 4 * 6 * 10, 4 * (24 + 60 + 40))
    assert cost.peak == 4 * 40


def test_an_addition_reads_two_and_writes_one():
    a, b = empty(8), empty(8)
    cost = count(lambda: a + b)
    assert (cost.calls, cost.flops, cost.traffic, cost.peak) == (1, 0, 3 * 32, 32)


def test_in_place_reads_and_writes_but_holds_nothing():
    a, b = empty(8), empty(8)
    cost = count(lambda: a.add_(b))
    assert (cost.traffic, cost.peak) == (3 * 32, 0)


def test_a_copy_does_not_read_its_target():
    a, b = empty(8), empty(8)
    assert count(lambda: a.copy_(b)).traffic == 2 * 32


def test_an_expanded_tensor_is_as_large_as_its_memory():
    a, b = empty(2, 8), empty(1, 1)
    assert count(lambda: a + b.expand(2, 8)).traffic == 64 + 4 + 64


def test_views_and_allocations_are_free():
    a = empty(4, 4)
    cost = count(lambda: (a.t()[1:].reshape(-1, 2), a.view(16), torch.empty(3, device="meta")))
    assert (cost.calls, cost.traffic) == (1, 2 * 48)  # the reshape of a transposed slice has to copy
    assert count(lambda: a.view(16)).calls == 0


def test_attention_on_meta_is_one_kernel_without_a_score_matrix():
    q = empty(1, 2, 64, 8)
    cost = count(lambda: F.scaled_dot_product_attention(q, q, q))
    assert cost.calls == 1 and cost.flops == 4 * 2 * 64 * 64 * 8
    assert cost.peak < 4 * 2 * 64 * 64


def test_a_convolution():
    x, w = empty(1, 3, 4, 5, 6), empty(7, 3, 3, 3, 3)
    cost = count(lambda: F.conv3d(x, w, padding=1))
    assert cost.flops == 2 * 7 * 3 * 27 * 4 * 5 * 6
    assert cost.traffic == 4 * (x.numel() + w.numel() + 7 * 120)


def test_inference_mode_is_counted_alike():
    x, w = empty(2, 6, 4), empty(5, 4)

    def work():
        with torch.inference_mode():
            return F.silu(F.linear(x, w))

    plain, inside = count(lambda: F.silu(F.linear(x, w))), count(work)
    assert (plain.calls, plain.flops, plain.traffic) == (inside.calls, inside.flops, inside.traffic)


def test_a_chain_of_pointwise_operators_is_one_pass():
    a, b = empty(8), empty(8)
    assert count(lambda: F.gelu((a + b) * 2 + b)).fused == 3 * 32


def test_a_matrix_product_ends_a_chain():
    a, b = empty(8, 8), empty(8, 8)
    cost = count(lambda: F.silu(((a + 1) * 2) @ b) + a)
    # a, product's input | two inputs, output | output, a, result
    assert cost.fused == 256 * (2 + 3 + 3)


def test_layer_norm_joins_its_neighbours_and_group_norm_reads_again():
    x, w = empty(2, 8, 16), empty(16)
    fused = count(lambda: F.layer_norm(x * 2, (16,), w, w) + 1).fused
    assert fused == 1024 + 64 + 1024
    fused = count(lambda: F.silu(F.group_norm(x * 2, 4))).fused
    assert fused == (1024 + 1024) + (1024 + 1024) + 0


def test_slices_written_side_by_side_do_not_meet():
    """The two ranges of a joint sequence, written one after the other, are read from memory by both."""
    x, row = empty(2, 10, 4), empty(4)

    def work():
        x[:, :3].mul_(row)
        x[:, 3:].mul_(row)

    assert count(work).fused == 2 * x.numel() * 4 + 16


def test_what_is_pointwise_on_a_product_alone_runs_inside_it():
    a, b, c = empty(8, 8), empty(8, 8), empty(8, 8)
    cost = count(lambda: F.gelu(a @ b))
    assert (cost.fused, cost.epilogue) == (256 * 5, 256 * 3)
    assert count(lambda: F.silu(a @ b, inplace=True)).epilogue == 256 * 3
    cost = count(lambda: (a @ b) * c)
    assert cost.epilogue == cost.fused  # it reads something else
    kept = count(lambda: (lambda x: (F.gelu(x), x))(a @ b))
    assert kept.epilogue == kept.fused  # somebody holds the product itself


def test_what_an_operator_writes_is_counted_even_if_it_returns_nothing():
    one, two = torch.empty(10), torch.empty(10)
    cost = count(lambda: torch._foreach_add_([one, two], 1.0), fuse=False)
    assert cost.calls == 1 and cost.traffic == 2 * 2 * 10 * 4


def test_attention_of_five_dimensions_is_not_fused_and_moves_its_scores():
    """torch takes its plain path there, which holds [2, 5, 3, 7, 7] scores; in four dimensions it does not."""
    frames, batch = empty(2, 5, 3, 7, 8), empty(10, 3, 7, 8)
    five, four = (count(lambda x=x: F.scaled_dot_product_attention(x, x, x)) for x in (frames, batch))
    scores = 10 * 3 * 7 * 7 * 4
    assert five.flops == four.flops
    assert five.peak - four.peak >= scores and five.traffic - four.traffic >= 2 * scores
    mask = empty(3, 7, 7)
    assert F.scaled_dot_product_attention(frames, frames, frames, mask).shape == frames.shape
