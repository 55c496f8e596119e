"""A score says what it stands on; its interval means what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.evaluation.score import Score, mean_interval, mean_score, median_score, not_computed


def test_the_interval_of_a_mean_covers_it_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    covered = 0
    for run in range(300):
        low, high = mean_interval(rng.normal(3.0, 2.0, 60), seed=run, rounds=400)
        covered += low <= 3.0 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_seeds_of_one_prompt_are_resampled_together():
    """Ten prompts whose four seeds agree are ten observations, not forty."""
    values = np.repeat(np.arange(10.0), 4)
    loose = mean_interval(values)
    together = mean_interval(values, [place // 4 for place in range(40)])
    assert (together[1] - together[0]) / (loose[1] - loose[0]) == pytest.approx(2.0, rel=0.15)


def test_a_video_it_says_nothing_about_is_not_counted():
    score = mean_score("x", [1.0, math.nan, 3.0])
    assert (score.value, score.videos) == (2.0, 2)
    assert len(score.each) == 3


def test_one_video_has_no_interval_and_none_no_value():
    assert mean_score("x", [1.0]).low is None
    nothing = mean_score("x", [math.nan])
    assert nothing.value is None and nothing.why


def test_scores_survive_json():
    score = mean_score("x", [1.0, math.nan, 2.0], unit="dB")
    again = Score.from_dict(score.to_dict())
    assert again.to_dict() == score.to_dict()
    with pytest.raises(InputError):
        Score.from_dict({"name": "x", "value": 1.0, "colour": "red"})


def test_what_was_not_computed_says_why():
    assert "weights" in str(not_computed("scene", "needs Tag2Text weights"))


def test_a_share_that_is_all_or_nothing_keeps_its_doubt():
    """Wilson's interval for 6 of 6, by prompts: resampling would say 1 to 1."""
    score = mean_score("share", [1.0] * 12, clusters=list("aabbccddeeff"), binary=True)
    assert score.low == pytest.approx(0.6097, abs=1e-4) and score.high == pytest.approx(1)
    assert mean_score("flicker", [0.0] * 12).high == 0


def test_a_median_has_an_interval_and_no_outlier_moves_it():
    rng = np.random.default_rng(2)
    values = [*rng.normal(0.9, 0.05, 80), 0.0, 0.0, float("nan")]
    score = median_score("iou", values, clusters=[number // 2 for number in range(len(values))])
    assert score.videos == 82 and score.value == pytest.approx(np.nanmedian(values))
    assert score.low < score.value < score.high < 0.95 and score.low > 0.86
    covered = 0
    for run in range(150):
        one = median_score("x", rng.normal(3.0, 2.0, 60), seed=run)
        covered += one.low <= 3.0 <= one.high
    assert 0.88 <= covered / 150 <= 1
    assert median_score("x", [1.0]).low is None and median_score("x", [float("nan")]).value is None
