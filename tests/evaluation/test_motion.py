"""Motion, frozen clips, first frames, DEVIL's rule, CLIP4Clip's similarity: closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.evaluation import motion
from cogvideox.evaluation.semantic import clip4clip
from cogvideox.video import Video
from cogvideox.world import render, sample_scene


def video(frames) -> Video:
    return Video(np.asarray(frames, np.uint8), 8)


def clip(tier: str, index: int = 0) -> np.ndarray:
    return render(sample_scene(3, index, tier=tier))


def test_a_clip_that_moves_moves_and_a_still_one_does_not():
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (64, 192, 3)).repeat(2, 0).repeat(2, 1)
    panned = video(np.stack([ground[:128, 6 * t : 6 * t + 128] for t in range(9)]))
    still = video(np.stack([ground[:128, :128]] * 9))
    score = motion.dynamic_degree_classical([panned, still])
    assert score.each == (1.0, 0.0)


def test_frozen_clips_are_found_through_the_noise_of_a_codec():
    moving, rng = clip("motion"), np.random.default_rng(0)
    frozen = np.stack([moving[0]] * 9) + (rng.random((9, 64, 64, 3)) < 0.2)
    assert motion.frozen_share([video(moving), video(frozen)]).each == (0.0, 1.0)
    assert motion.frozen_share([video(moving[:1])]).value is None


def test_a_first_frame_of_another_brightness_is_found_and_a_fade_is_not():
    frames = clip("motion").astype(int)
    jump = frames.copy()
    jump[0] += 20
    fade = np.clip(frames + 6 * np.arange(17)[:, None, None, None], 0, 255)
    score = motion.first_frame_jump([video(np.clip(each, 0, 255)) for each in (frames, jump, fade)])
    assert score.each == (0.0, 1.0, 0.0)


def test_devils_rule_counts_an_empty_bin_as_nothing():
    assert motion.dynamics_binned_quality([0.05, 0.95], [1.0, 1.0]) == pytest.approx(2 / 12)
    assert motion.dynamics_binned_quality(np.arange(12) / 12, np.ones(12)) == pytest.approx(1.0)
    assert motion.dynamics_binned_quality([1.0], [1.0]) == pytest.approx(1 / 12)
    with pytest.raises(InputError):
        motion.dynamics_binned_quality([1.2], [1.0])


def test_dynamic_quality_averages_its_keys_and_has_an_interval():
    rng = np.random.default_rng(0)
    dynamics = list(rng.random(200))
    score = motion.dynamic_quality(dynamics, {"naturalness": [0.5] * 200, "smoothness": [1.0] * 200})
    assert score.value == pytest.approx(0.75) and score.low <= score.value
    assert "--devil" in motion.dynamic_quality(None, {}).why


class Words:
    """Two axes; a picture lies on the first by its brightness, the text 'white' on it."""

    name = "brightness"

    def images(self, frames):
        level = frames.mean((1, 2, 3)) / 255
        return np.stack([level, np.sqrt(1 - level**2)], 1)

    def texts(self, texts):
        return np.array([[1.0, 0.0] if text == "white" else [0.0, 1.0] for text in texts])


def test_clip4clip_pools_frames_and_normalises_again():
    """Half white, half black: the mean (1/2, 1/2) is made a unit vector, so both words score 1 / sqrt 2."""
    half = video(np.concatenate([np.full((6, 8, 8, 3), 255), np.zeros((6, 8, 8, 3))]))
    white = video(np.full((12, 8, 8, 3), 255))
    score = clip4clip([half, white, white], ["white", "white", ""], Words())
    assert score.each[:2] == pytest.approx((0.5**0.5, 1.0))
    assert score.videos == 2 and np.isnan(score.each[2])
    assert clip4clip([half], ["white"], None).value is None
