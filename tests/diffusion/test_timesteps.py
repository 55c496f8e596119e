"""Training times: uniform, and stratified over the global batch whatever it was dealt into."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.diffusion import explicit_uniform, interval, lean, uniform
from cogvideox.errors import ConfigError

TIMES = 1000
PLAIN, EXPLICIT = [698, 181, 18, 744], [242, 523, 443, 821]  # of seed 7, as drawn before shift was a setting


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
def test_leaning_times_follow_the_formula_and_keep_their_order(shift):
    every = torch.linspace(0, TIMES, 10 * TIMES + 1, dtype=torch.float64)
    leaning = lean(every, shift)
    assert leaning[0] == 0 and leaning[-1] == TIMES and (leaning.diff() > 0).all()
    assert lean(torch.tensor([500.0]), shift).item() == pytest.approx(1000 * shift / (1 + shift))
    assert torch.allclose(lean(leaning, 1 / shift), every, atol=1e-9)


@pytest.mark.parametrize("drawn", [uniform, explicit_uniform], ids=["plain", "explicit"])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_leaning_times_leave_none_out_and_are_as_likely_as_the_formula_says(shift, drawn):
    draws = [drawn(range(i * 4000, (i + 1) * 4000), 3, shift=shift) for i in range(50)]
    counts = torch.bincount(torch.cat(draws), minlength=TIMES).double()
    ends = lean(torch.arange(TIMES + 1, dtype=torch.float64), 1 / shift)
    expected = ends.diff() / TIMES * counts.sum()
    assert len(counts) == TIMES and counts.min() > 0
    assert (counts - expected).square().div(expected).mean() < 1.2  # chi-squared per degree of freedom


@pytest.mark.parametrize("intervals", [None, 5, 16])
def test_leaning_times_still_come_one_from_each_part(intervals):
    n = intervals or 32
    parts = lean(torch.linspace(0, TIMES, n + 1, dtype=torch.float64), 3.0)
    t = explicit_uniform(range(n, 2 * n), 4, intervals, shift=3.0).sort().values
    assert (t >= parts[:-1].floor()).all() and (t <= parts[1:]).all()
    slices = [explicit_uniform(range(n + i, n + i + 1), 4, n, shift=3.0) for i in range(n)]
    assert torch.equal(torch.cat(slices), explicit_uniform(range(n, 2 * n), 4, n, shift=3.0))


def test_a_shift_of_one_changes_no_time():
    t = torch.rand(64, dtype=torch.float64) * TIMES
    assert lean(t, 1.0) is t
    assert uniform(range(4), 7).tolist() == PLAIN and explicit_uniform(range(4), 7).tolist() == EXPLICIT
