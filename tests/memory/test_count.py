"""The counter against figures computed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cogvideox.memory import count


def empty(*shape: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def test_a_freed_temporary_counts_in_the_peak_only_while_it_lives():
    a = empty(1000)

    def work():
        b = a + 1
        c = b + 1
        del b
        return c * 2

    assert (count(work).peak, count(work).output) == (2 * 4000, 4000)


def test_what_existed_before_is_not_counted():
    weight, x = empty(100, 100), empty(2, 100)
    assert count(lambda: x @ weight).peak == 4 * 200


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_matrix_product(device):
    a, b = empty(4, 6, device=device), empty(6, 10, device=device)
    cost = count(lambda: a @ b)
    assert cost.flops == 2 * 4 * 6 * 10
    assert cost.peak == cost.output == 4 * 40


def test_in_place_holds_nothing():
    a, b = empty(8), empty(8)
    assert count(lambda: a.add_(b)).peak == 0


def test_attention_on_meta_writes_no_score_matrix():
    q = empty(1, 2, 64, 8)
    cost = count(lambda: F.scaled_dot_product_attention(q, q, q))
    assert cost.flops == 4 * 2 * 64 * 64 * 8
    assert cost.peak < 4 * 2 * 64 * 64


def test_a_convolution():
    x, w = empty(1, 3, 4, 5, 6), empty(7, 3, 3, 3, 3)
    assert count(lambda: F.conv3d(x, w, padding=1)).flops == 2 * 7 * 3 * 27 * 4 * 5 * 6


def test_what_was_seen_before_counts_the_same_and_keeps_its_shape():
    """Forms of results are kept from call to call, those of operators that write in place too."""

    def work():
        a = empty(2, 1, 8)
        b = a + 1
        b.add_(a).mul_(2)
        b.copy_(empty(2, 1, 1))
        b.squeeze_(1).t_()
        assert tuple(b.shape) == (8, 2)
        same = b.add_(1)
        assert same is b and tuple(a.shape) == (2, 1, 8)
        c = b[:4].silu() if hasattr(b, "silu") else F.silu(b[:4])
        return F.silu(c, inplace=True)

    first, again = count(work), count(work)
    assert first == again and first.peak >= 4 * (16 + 16 + 8)
