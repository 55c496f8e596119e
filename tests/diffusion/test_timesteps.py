"""Training times: uniform, and stratified over the global batch whatever it was dealt into."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.diffusion import explicit_uniform, interval, shifted, uniform
from cogvideox.errors import ConfigError

TIMES = 1000


def test_uniform_times_cover_the_schedule():
    t = uniform(range(20_000), 0)
    assert t.min() == 0 and t.max() == 999
    assert t.double().mean().item() == pytest.approx(499.5, abs=8)


@given(intervals=st.integers(1, 2000), total=st.integers(1, 2000))
def test_intervals_are_as_long_as_each_other_and_their_union_is_every_time(intervals, total):
    parts = [interval(i, intervals, total) for i in range(intervals)]
    lengths = {len(part) for part in parts}
    assert max(lengths) - min(lengths) <= 1
    assert sorted({t for part in parts for t in part}) == list(range(total))
    assert all(b.start >= a.stop - 1 for a, b in zip(parts, parts[1:], strict=False))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_global_batch_covers_every_interval_for_any_number_of_ranks(batch, parts):
    for ranks in range(1, 65):
        total = ranks * batch * parts
        for step in (0, 7):
            dealt = []
            for part in range(parts):  # accumulation, then ranks, then the batch of one rank
                for rank in range(ranks):
                    first = step * total + (part * ranks + rank) * batch
                    dealt.append(explicit_uniform(range(first, first + batch), 3, intervals=total))
            times = torch.cat(dealt)
            assert torch.equal(times, explicit_uniform(range(step * total, (step + 1) * total), 3, total))
            order = times.sort().values.tolist()
            assert all(t in interval(i, total) for i, t in enumerate(order))


@given(
    intervals=st.integers(1, 97),
    first=st.integers(0, 500),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
@settings(deadline=None, max_examples=50)
def test_the_stream_of_times_does_not_depend_on_how_it_is_cut(intervals, first, cuts):
    whole = explicit_uniform(range(first, first + sum(cuts)), 5, intervals)
    pieces, at = [], first
    for cut in cuts:
        pieces.append(explicit_uniform(range(at, at + cut), 5, intervals))
        at += cut
    assert torch.equal(torch.cat(pieces), whole)


def test_every_time_is_equally_likely_even_when_the_intervals_do_not_divide_the_times():
    t = explicit_uniform(range(28_000), 0, intervals=7)
    counts = torch.bincount(t, minlength=TIMES).double()
    assert len(counts) == TIMES
    assert ((counts - 28).square() / 28).sum().item() < 1150  # chi-square, 999 degrees of freedom


def test_one_interval_is_plain_uniform():
    t = explicit_uniform(range(2000), 0, intervals=1)
    assert t.double().std().item() == pytest.approx(TIMES / 12**0.5, rel=0.05)


def test_without_a_number_of_intervals_the_batch_is_the_cycle():
    t = explicit_uniform(range(64, 96), 0)
    assert all(time in interval(i, 32) for i, time in enumerate(t.sort().values.tolist()))


def test_no_interval_is_refused():
    with pytest.raises(ConfigError, match="intervals 0"):
        explicit_uniform(range(4), 0, intervals=0)


@pytest.mark.parametrize("shift", [0.25, 3.0, 7.0])
def test_shifted_times_lean_as_the_formula_says_and_keep_their_order(shift):
    every = torch.arange(TIMES)
    leaning = shifted(every, shift)
    assert leaning.min() >= 0 and leaning.max() <= TIMES - 1 and (leaning.diff() >= 0).all()
    middle = shift * 0.5 / (1 + (shift - 1) * 0.5) * TIMES
    assert leaning.double().median().item() == pytest.approx(middle, abs=2 * max(shift, 1 / shift))
    back = shifted(leaning, 1 / shift)
    assert (back - every).abs().max() <= 2 + max(shift, 1 / shift)


def test_a_shift_of_one_changes_no_time():
    t = explicit_uniform(range(64), 3, 64)
    assert shifted(t, 1.0) is t
    assert (shifted(torch.arange(TIMES), 3.0) >= 750).float().mean().item() == pytest.approx(0.5, abs=0.002)
