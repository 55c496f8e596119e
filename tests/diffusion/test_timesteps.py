"""Training times: uniform, and stratified over the global batch."""

import pytest
import torch

from cogvideox.diffusion import explicit_uniform, uniform
from cogvideox.errors import ConfigError
from cogvideox.noise import generator


def test_uniform_times_cover_the_schedule():
    t = uniform(20_000, generator(0, "t"))
    assert t.min() == 0 and t.max() == 999
    assert t.double().mean().item() == pytest.approx(499.5, abs=8)


@pytest.mark.parametrize(("batch", "ranks", "groups"), [(4, 2, None), (2, 8, 8), (5, 8, 40), (3, 4, 2)])
def test_every_interval_gets_its_share_of_the_global_batch(batch, ranks, groups):
    t = torch.cat(
        [explicit_uniform(batch, generator(0, "t", rank), rank, ranks, groups) for rank in range(ranks)]
    )
    count = groups or batch * ranks
    shares = torch.histc(t.double(), bins=count, min=0, max=1000)
    assert (shares == batch * ranks / count).all()


def test_with_one_group_per_rank_a_rank_stays_in_its_interval():  # paper section 3.2
    for rank in range(4):
        t = explicit_uniform(1000, generator(1, "t", rank), rank, 4, groups=4)
        assert t.min() >= 250 * rank and t.max() < 250 * (rank + 1)


def test_the_whole_batch_is_exactly_uniform_even_when_groups_do_not_divide_the_times():
    t = torch.cat([explicit_uniform(7, generator(i, "t")) for i in range(4000)])
    counts = torch.bincount(t, minlength=1000).double()
    assert len(counts) == 1000
    assert ((counts - 28).square() / 28).sum().item() < 1150  # chi-square, 999 degrees of freedom


def test_one_sample_is_plain_uniform():
    t = torch.cat([explicit_uniform(1, generator(i, "t")) for i in range(2000)])
    assert t.double().std().item() == pytest.approx(1000 / 12**0.5, rel=0.05)


def test_mistakes_are_refused_with_both_values():
    with pytest.raises(ConfigError, match="groups 3.*4 samples"):
        explicit_uniform(4, generator(0, "t"), groups=3)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        explicit_uniform(4, generator(0, "t"), rank=2, ranks=2)
