"""PSNR, SSIM and flicker against closed forms and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.evaluation import fidelity
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from cogvideox.world.distortions import distort

metrics = pytest.importorskip("skimage.metrics")


def video(frames) -> Video:
    return Video(np.asarray(frames, dtype=np.uint8), 8)


def flat(*levels: int, side: int = 16) -> Video:
    return video(np.stack([np.full((side, side, 3), level) for level in levels]))


@pytest.fixture(scope="module")
def pair() -> tuple[Video, Video]:
    clip = render(sample_scene(0, 1))[:5]
    return video(distort(clip, "noise", 0.5, np.random.default_rng(0))), video(clip)


def test_psnr_of_a_constant_difference_is_known():
    score = fidelity.psnr([flat(16, 16)], [flat(0, 0)])
    assert score.value == pytest.approx(20 * np.log10(255 / 16), abs=1e-6)  # 24.0485 dB
    assert fidelity.psnr([flat(7)], [flat(7)]).value == 100


def test_psnr_equals_scikit_image(pair):
    ours = fidelity.psnr_by_frame(pair[0].frames, pair[1].frames)
    theirs = [
        metrics.peak_signal_noise_ratio(b, a, data_range=255)
        for a, b in zip(pair[0].frames, pair[1].frames, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_the_two_averages_of_psnr_differ_where_frames_do():
    a, b = flat(0, 64), flat(0, 0)
    b.frames[0] = 1
    assert fidelity.psnr([a], [b]).value > fidelity.psnr([a], [b], average="clip").value + 10


def test_ssim_equals_scikit_image(pair):
    ours = fidelity.ssim([pair[0]], [pair[1]]).value
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = [
        metrics.structural_similarity(b, a, channel_axis=-1, data_range=255, **settings)
        for a, b in zip(pair[0].frames, pair[1].frames, strict=True)
    ]
    assert ours == pytest.approx(np.mean(theirs), abs=1e-9)


def test_flicker_of_a_flash_is_known():
    """Frames 0, 10, 0: 10 per pair; VBench's form 245 / 255."""
    flash = flat(0, 10, 0)
    assert fidelity.flicker([flash]).value == 10
    assert fidelity.vbench_flicker([flash]).value == pytest.approx(0.960784, abs=1e-6)
    long = flat(*([0, 10] * 9))
    assert fidelity.flicker_paper([long]).value == 160
    assert fidelity.flicker_paper([flash]).value is None


def test_blur_lowers_plain_flicker_and_only_the_residual_tells():
    clip = render(sample_scene(0, 0))
    blurred = distort(clip, "blur", 0.6, np.random.default_rng(0))
    assert fidelity.flicker_excess([video(blurred)], [video(clip)]).value < 0
    assert fidelity.flicker_residual([video(blurred)], [video(clip)]).value > 0.1
    assert fidelity.flicker_residual([video(clip)], [video(clip)]).value == 0


def test_a_constant_offset_is_no_flicker():
    a, b = flat(3, 9, 4), flat(13, 19, 14)
    assert fidelity.flicker_residual([a], [b]).value == 0


def test_what_does_not_fit_together_is_named():
    with pytest.raises(InputError, match="reference"):
        fidelity.psnr([flat(1, 2)], [flat(1)])
    with pytest.raises(InputError, match="equally many"):
        fidelity.psnr([flat(1)], [])
    with pytest.raises(InputError, match="11 pixels"):
        fidelity.ssim([flat(1, side=8)], [flat(1, side=8)])
