"""Frame pack: every sample once an epoch, no row over its budget, little waste, the same rows for any cluster."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.data.pack import RowStream, bucket_rows, pack_rows, waste
from cogvideox.errors import ConfigError

SIZES = st.lists(st.integers(1, 100), min_size=1, max_size=200)


def mixed_durations(count: int) -> list[int]:
    """The distribution of docs/training.md: a quarter images, else 1 to 10 s at 16 per second, three aspects."""
    draw = random.Random(0)
    sizes = []
    for _ in range(count):
        frames = 1 if draw.random() < 0.25 else 1 + 16 * draw.randint(1, 10)
        height, width = draw.choice([(16, 16), (16, 22), (16, 28)])  # patches of 256 px clips
        sizes.append(226 + ((frames - 1) // 4 + 1) * height * width)
    return sizes


@given(sizes=SIZES, seed=st.integers(0, 5), epoch=st.integers(0, 3), window=st.integers(1, 64))
@settings(deadline=None)
def test_every_sample_stands_in_one_row_and_no_row_is_over_its_budget(sizes, seed, epoch, window):
    rows = pack_rows(sizes, 100, seed, epoch, window)
    assert sorted(one for row in rows for one in row) == list(range(len(sizes)))
    assert all(0 < sum(sizes[one] for one in row) <= 100 for row in rows)
    assert rows == pack_rows(sizes, 100, seed, epoch, window)
    assert 0 <= waste(rows, sizes, 100) < 1


def test_another_epoch_packs_otherwise():
    sizes = mixed_durations(200)
    assert pack_rows(sizes, 30_000, epoch=0) != pack_rows(sizes, 30_000, epoch=1)


@pytest.mark.parametrize("budget", [25_000, 50_000])
def test_mixed_durations_waste_at_most_a_twentieth(budget):
    sizes = mixed_durations(4000)
    assert waste(pack_rows(sizes, budget), sizes, budget) <= 0.05


def test_a_sample_larger_than_a_row_is_named():
    with pytest.raises(ConfigError, match="sample 1 has 11 tokens, a row has 10"):
        pack_rows([3, 11], 10)
    with pytest.raises(ConfigError, match="sample 0 has 11 tokens"):
        bucket_rows(["a"], [11], 10)


@given(sizes=SIZES, ranks=st.integers(1, 5), per_step=st.integers(1, 4))
@settings(deadline=None)
def test_ranks_share_the_rows_of_a_stream_without_loss_or_double(sizes, ranks, per_step):
    stream = RowStream(lambda epoch: pack_rows(sizes, 100, 1, epoch))
    per_epoch = len(pack_rows(sizes, 100, 1, 0))
    dealt = [stream[number] for rank in range(ranks) for number in range(rank, 3 * per_epoch, ranks)]
    in_order = [stream[number] for number in range(3 * per_epoch)]
    assert sorted(dealt) == sorted(in_order)
    counted = [one for row in in_order for one in row]
    firsts = [stream.first_sample(number) for number in range(3 * per_epoch)]
    assert firsts == [sum(map(len, in_order[:n])) for n in range(3 * per_epoch)]
    assert sorted(counted[: len(sizes)]) == list(range(len(sizes)))


def test_a_stream_goes_on_into_the_next_epoch_within_a_step():
    stream = RowStream(lambda epoch: [(epoch, 0), (epoch, 1), (epoch, 2)])
    assert [stream[n] for n in range(4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert stream.locate(7) == (2, 1)
    assert stream[1] == (0, 1)  # and back again


def test_no_data_is_said():
    with pytest.raises(ConfigError, match="holds no sample"):
        RowStream(lambda epoch: [])[0]


@given(shapes=st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_bucket_row_has_one_shape_and_every_sample_comes_once(shapes):
    tokens = [{"a": 10, "b": 25, "c": 60}[shape] for shape in shapes]
    rows = bucket_rows(shapes, tokens, 60)
    assert sorted(one for row in rows for one in row) == list(range(len(shapes)))
    assert all(len({shapes[one] for one in row}) == 1 for row in rows)
    assert all(sum(tokens[one] for one in row) <= 60 for row in rows)
