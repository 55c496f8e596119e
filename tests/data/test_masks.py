"""Masks over a clip: what they hide, how often, the same for the same draw."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cogvideox.data.masks import HOLES, KEYFRAMES, MASKS, WORLD_HOLES, check_shares, draw_mask
from cogvideox.errors import ConfigError
from cogvideox.video.mask import boxes, grown
from cogvideox.world import sample_scene, silhouettes

SHAPE = (17, 48, 64)


def drawn(kind: str, count: int = 40, shape=SHAPE, things=None):
    return [draw_mask({kind: 1.0}, shape, random.Random(f"{kind}/{n}"), things) for n in range(count)]


@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_hides_something_and_repeats_with_its_draw(kind):
    things = silhouettes(sample_scene(0, 0), 64, 17)[:, :48]
    masks, again = drawn(kind, things=things), drawn(kind, things=things)
    assert all(np.array_equal(one, two) for one, two in zip(masks, again, strict=True))
    assert all(mask.shape == SHAPE and mask.dtype == bool and mask.any() for mask in masks)
    assert not any(mask.all() for mask in masks)
    assert len({mask.tobytes() for mask in masks}) > (1 if kind not in ("first", "last", "ends") else 0)


def test_frames_are_hidden_whole_and_those_of_the_name_are_known():
    for kind, known in (("first", {0}), ("last", {16}), ("ends", {0, 16})):
        for mask in drawn(kind, 3):
            assert (
                set(np.flatnonzero(~mask.any((1, 2)))) == known and mask.any((1, 2)).sum() + len(known) == 17
            )
    counts = [int((~mask.any((1, 2))).sum()) for mask in drawn("keyframes")]
    assert set(counts) == {1, 2, 3, 4}
    for mask in drawn("beginning"):
        shown = np.flatnonzero(~mask.any((1, 2)))
        assert shown.tolist() == list(range(len(shown))) and 1 <= len(shown) <= 8
    assert all(mask.all() for mask in drawn("ends", 3, shape=(1, 16, 16)))


def test_a_box_rests_or_moves_and_outside_is_all_but_a_box():
    assert all((mask == mask[0]).all() for mask in drawn("box"))
    assert sum(not (mask == mask[0]).all() for mask in drawn("moving-box")) > 35
    for mask in drawn("moving-box"):
        assert np.array_equal(mask, boxes(mask)) and len(set(mask.sum((1, 2)).tolist())) == 1
    assert all(np.array_equal(~mask, boxes(~mask)) for mask in drawn("outside"))


def test_a_silhouette_is_covered_with_a_margin():
    things = silhouettes(sample_scene(0, 1), 64, 17)
    for mask in drawn("silhouette", shape=(17, 64, 64), things=things):
        assert mask[things].all() and mask.sum() > things.sum()
    with pytest.raises(ConfigError, match="in the tiny world alone"):
        drawn("silhouette", 1)


def test_growing_and_boxes_against_a_plain_loop():
    mask = np.random.default_rng(0).random((2, 9, 11)) > 0.97
    expected = np.zeros_like(mask)
    for frame, y, x in np.argwhere(mask):
        expected[frame, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    assert np.array_equal(grown(mask, 2), expected) and np.array_equal(grown(mask, 0), mask)
    for one, box in zip(mask, boxes(mask), strict=True):
        ys, xs = np.nonzero(one)
        around = np.zeros_like(one)
        if len(ys):
            around[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
        assert np.array_equal(box, around)


def test_shares_are_checked_and_the_mixtures_are_good():
    for shares in (HOLES, WORLD_HOLES, KEYFRAMES):
        check_shares(shares)
        assert sum(shares.values()) == pytest.approx(1)
    for shares in ({}, {"box": -1.0}, {"box": 0.0}):
        with pytest.raises(ConfigError, match="shares of at least 0"):
            check_shares(shares)
