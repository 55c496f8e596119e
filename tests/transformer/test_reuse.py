"""Steps that are skipped: which ones, by the rules that need no calibration."""

from __future__ import annotations

import pytest
import torch

from cogvideox.transformer.calls import answering, at_step
from cogvideox.transformer.reuse import first_block_cached, reusing, skips_of, tea_factors
from support.models import golden_model

SKIP = 1.0
IDENTITY = (1.0, 0.0)


@pytest.mark.parametrize(
    ("threshold", "polynomial", "expected"),
    [
        (0.0, IDENTITY, [None] * 7),
        # sums 0.1 | 0.1 0.2 0.6 (computed) | 0.05 0.15 (last: computed)
        (0.3, IDENTITY, [None, SKIP, SKIP, None, SKIP, SKIP, None]),
        (float("inf"), IDENTITY, [None, SKIP, SKIP, SKIP, SKIP, SKIP, None]),
        (0.3, (2.0, 0.0), [None, SKIP, None, None, SKIP, None, None]),
        (0.05, (1.0, 0.0, 0.0), [None, SKIP, SKIP, None, SKIP, SKIP, None]),
    ],
)
def test_tea_adds_up_changes_until_they_are_large(threshold, polynomial, expected):
    assert skips_of([0.1, 0.1, 0.4, 0.05, 0.1, 0.1], threshold, polynomial) == expected


def test_tea_reads_the_embeddings_of_the_network():
    """A synthetic series: the embedding of time t is t itself in every value."""
    network = golden_model().transformer
    network.time_emb = lambda times, ofs, dtype: times[:, None].to(dtype).expand(-1, 16)
    # changes 0.1, 0.2222, 0.1429, 0.5, 0.3333
    assert tea_factors(network, [1000, 900, 700, 600, 300, 200], 0.3, IDENTITY) == [
        None, SKIP, None, SKIP, None, None,
    ]  # fmt: skip
    del network.time_emb
    real = tea_factors(network, [999, 749, 499, 249], 0.0, IDENTITY)
    assert real == [None] * 4


class Counted:
    """A network whose blocks are counted: block 0 adds ``first[i]`` at its i-th call, the others add 10 together."""

    def __init__(self, first):
        self.network, self.first, self.calls = golden_model().transformer, list(first), []

        def run_blocks(x, temb, rotary_emb, layout, start=0, stop=None):
            self.calls.append((start, stop))
            if stop == 1:
                return x + self.first.pop(0)
            return x + 10.0

        self.network.run_blocks = run_blocks

    def step(self, number, branches=("prompt",), x=0.0):
        from cogvideox.transformer.layout import Layout, TokenGrid

        layout = Layout.plain(2, TokenGrid(1, 2, 2))
        with torch.no_grad(), at_step(number), answering(branches):
            out = self.network.run_blocks(torch.full((1, 6, 3), x), None, None, layout)
        assert out.unique().numel() == 1
        return out.mean().item()


def test_the_first_block_decides_and_is_compared_with_the_last_computed_step():
    counted = Counted([1.0, 1.04, 1.08, 1.12, 1.12])
    with first_block_cached(counted.network, 0.1) as skipped:
        found = [counted.step(number) for number in range(5)]
    # 1.04 and 1.08 are within a tenth of 1.0, 1.12 is not: it is computed, and 1.12 is compared with it
    assert found == pytest.approx([11, 11.04, 11.08, 11.12, 11.12])
    assert skipped == [1, 2, 4] and counted.calls.count((1, None)) == 2


def test_all_answers_of_a_step_are_equally_old():
    """In sequence the first call decides; the second one follows though its own first block has changed much."""
    counted = Counted([1.0, 5.0, 1.01, 9.0, 2.0, 9.0])
    with first_block_cached(counted.network, 0.1) as skipped:
        for number in range(3):
            for branch in ("negative", "prompt"):
                counted.step(number, (branch,))
    assert skipped == [1] and counted.calls.count((1, None)) == 4


@pytest.mark.parametrize("rule", ["first-block", "factors"])
def test_every_run_starts_with_nothing_kept(rule):
    counted = Counted([1.0] * 9)
    if rule == "first-block":
        cache = first_block_cached(counted.network, 1.0)
    else:
        cache = reusing(counted.network, [None, 1.0, 1.0])
    whole = (1, None) if rule == "first-block" else (0, None)
    with cache as skipped:
        for _ in range(3):
            for number in range(3):
                counted.step(number)
            assert skipped == [1, 2]
    assert counted.calls.count(whole) == 3


def test_a_branch_without_a_residual_is_computed():
    counted = Counted([])
    with reusing(counted.network, [None, 1.0, 1.0, 1.0]):
        counted.step(0, ("prompt",))
        counted.step(1, ("prompt",))
        counted.step(2, ("negative", "prompt"))
        counted.step(3, ("negative", "prompt"))
    assert counted.calls == [(0, None)] * 2
