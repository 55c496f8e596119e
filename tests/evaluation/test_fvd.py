"""Frechet distances against closed forms, a second public implementation, and known flaws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideox.errors import CheckpointError, FrameError, InputError
from cogvideox.evaluation import fvd
from cogvideox.perception.features import FeatureCard, NetworkFeatures, load_i3d, prepare
from cogvideox.perception.world_features import fixed_features, world_features
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from cogvideox.world.distortions import DISTORTIONS, distort


def card(dim: int = 4) -> FeatureCard:
    return FeatureCard("test", "1", dim, 16, 8, "cover", "none")


def gaussian(seed: int, n: int, mean, cov) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(mean, cov, n)


def test_distance_of_two_gaussians_is_the_closed_form():
    """5 + (1 + 9 - 6) + (4 + 1 - 4) = 10, and a rotated pair whose root is known."""
    a, b = np.diag([1.0, 4.0]), np.diag([9.0, 1.0])
    assert fvd.frechet_of_gaussians(np.zeros(2), a, np.array([1.0, 2.0]), b) == pytest.approx(10, rel=1e-12)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    turned = fvd.frechet_of_gaussians(np.zeros(2), turn @ a @ turn.T, np.zeros(2), turn @ b @ turn.T)
    assert turned == pytest.approx(5, rel=1e-12)


def test_samples_of_gaussians_come_to_the_closed_form():
    mean, cov = np.array([1.0, -2.0, 0.5]), np.diag([1.0, 2.0, 0.5])
    a, b = gaussian(0, 400_000, np.zeros(3), np.eye(3)), gaussian(1, 400_000, mean, cov)
    truth = (mean**2).sum() + sum((np.sqrt(v) - 1) ** 2 for v in np.diag(cov))
    assert fvd.frechet(a, b) == pytest.approx(truth, rel=1e-2)


@pytest.mark.parametrize("dim", [3, 64])
def test_distance_equals_two_other_implementations(dim):
    """torchmetrics takes eigenvalues of S_a S_b; the classical code takes scipy's matrix root."""
    theirs = pytest.importorskip("torchmetrics.image.fid")._compute_fid
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(dim)
    a, b = rng.normal(size=(300, dim)) @ rng.normal(size=(dim, dim)), rng.normal(size=(250, dim)) + 0.3
    ours = fvd.frechet(a, b)
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    tensors = [torch.from_numpy(value) for moment in moments for value in moment]
    assert ours == pytest.approx(float(theirs(*tensors)), rel=1e-6)
    (m, s), (n, r) = moments
    classical = ((m - n) ** 2).sum() + np.trace(s + r - 2 * np.real(linalg.sqrtm(s @ r)))
    assert ours == pytest.approx(classical, rel=1e-6)


@pytest.mark.parametrize(("dim", "n", "floor"), [(16, 100, 1.5), (64, 500, 4.4), (128, 500, 17.0)])
def test_the_floor_of_like_sets_is_as_published(dim, n, floor):
    rng = np.random.default_rng(0)
    values = [fvd.frechet(rng.normal(size=(n, dim)), rng.normal(size=(n, dim))) for _ in range(6)]
    assert np.mean(values) == pytest.approx(floor, rel=0.1)


def test_extrapolation_takes_the_bias_away_and_its_interval_covers_the_truth():
    dim, n, runs = 8, 100, 20
    truth = dim * 0.0625 + dim * 0.2**2
    rng = np.random.default_rng(0)
    plain, corrected, covered = [], [], 0
    for _ in range(runs):
        a, b = rng.normal(0.25, 1.2, (n, dim)), rng.normal(size=(n, dim))
        score = fvd.fvd_extrapolated(a, b, card(dim))
        plain.append(fvd.fvd_of_features(a, b, card(dim)).value)
        corrected.append(score.value)
        covered += score.low <= truth <= score.high
    assert abs(np.mean(corrected) - truth) < 0.2 * abs(np.mean(plain) - truth)
    assert covered >= 0.85 * runs


def test_polynomial_mmd_equals_hand_computed_values():
    x = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9.0]])
    y = np.array([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5.0]])
    assert fvd.mmd_poly(x, y) == pytest.approx(270.7222, abs=1e-4)
    assert fvd.mmd_poly(x, y, gamma=1) == pytest.approx(2436.5)
    assert fvd.mmd_poly(x, y, degree=3, coef0=1) == pytest.approx(23088.083, abs=1e-3)


def test_too_few_videos_are_not_computed_and_say_so():
    few = np.zeros((3, 4))
    assert "at least 8" in fvd.fvd_of_features(few, few, card()).why
    some = np.random.default_rng(0).normal(size=(20, 64))
    assert "needs 128" in fvd.fvd_extrapolated(some, some, card(64)).why
    with pytest.raises(InputError):
        fvd.fvd_of_features(few, np.zeros((9, 5)), card())


def test_unequal_numbers_are_cut_to_the_smaller():
    a, b = (np.random.default_rng(s).normal(size=(n, 4)) for s, n in ((0, 50), (1, 30)))
    score = fvd.fvd_of_features(a, b, card())
    assert score.videos == 30 and score.low < score.value < score.high


CLIPS = [render(sample_scene(5, index)) for index in range(40)]


@pytest.mark.parametrize("flaw", DISTORTIONS)
def test_the_distance_grows_with_every_flaw(flaw):
    grows(world_features(), flaw)


@pytest.mark.parametrize("flaw", ["blur", "noise"])
def test_untrained_features_notice_what_is_wrong_with_single_frames(flaw):
    grows(fixed_features(), flaw)


def grows(network: NetworkFeatures, flaw: str) -> None:
    clean, last = network(CLIPS), 0.0
    for amount in (0.35, 0.65, 1.0):
        rng = np.random.default_rng(3)
        spoilt = [distort(clip, flaw, amount, rng) for clip in CLIPS]
        value = fvd.fvd_of_features(network(spoilt), clean, network.card).value
        assert value > last, (flaw, amount)
        last = value


def test_fvd_of_videos_names_its_network():
    clips = [Video(clip, 8) for clip in CLIPS[:10]]
    score = fvd.fvd(clips, clips, fixed_features())
    assert score.name == "fvd_fixed-64_17f" and score.videos == 10
    assert score.value == pytest.approx(0, abs=1e-4)
    assert score.settings["extractor"]["weights_sha256"] == "seed 0"


def test_a_clip_that_is_too_short_is_refused():
    with pytest.raises(FrameError, match="reads 17"):
        fixed_features()([CLIPS[0][:9]])


def test_clips_are_covered_or_stretched_as_the_card_says():
    wide = np.zeros((16, 8, 32, 3), np.uint8)
    wide[:, :, 12:20] = 255  # the centre
    assert float(prepare(wide, card()).min()) == 1.0
    stretched = FeatureCard("test", "1", 4, 16, 8, "stretch", "none")
    assert float(prepare(wide, stretched).min()) == -1.0


class Scripted(torch.nn.Module):
    """The call of the published I3D file, with 400 simple numbers for logits."""

    def forward(self, x, rescale: bool, resize: bool, return_features: bool):
        assert not rescale and not resize and return_features
        assert x.shape[1:] == (3, 16, 224, 224)
        return x.mean(dim=(1, 2, 3, 4))[:, None] * torch.ones(400)


def test_i3d_is_read_from_a_users_file(tmp_path):
    torch.jit.script(Scripted()).save(str(tmp_path / "i3d.pt"))
    network = load_i3d(tmp_path / "i3d.pt")
    clip = np.full((20, 48, 64, 3), 255, np.uint8)
    features = network([clip, clip // 255 * 0])
    assert features.shape == (2, 400) and isinstance(network, NetworkFeatures)
    np.testing.assert_allclose(features[:, 0], [1, -1], atol=1e-6)
    assert len(network.card.weights_sha256) == 64


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "i3d.pt").write_bytes(b"no script")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_i3d(tmp_path / "i3d.pt")


def moving(frames, fps, num=10, seed=0):
    """Clips in which a bright column moves; the same second looks the same at every rate."""
    found = []
    for place in range(num):
        rng = np.random.default_rng(seed + place)
        frame, speed = rng.integers(0, 60, (frames, 32, 32, 3), np.uint8), rng.uniform(4, 12)
        for number in range(frames):
            frame[number, :, int(number / fps * speed + place) % 32] = 255
        found.append(Video(frame, fps))
    return found


def test_fvd_of_unlike_rates_is_refused_or_made_at_one_rate():
    slow, fast = moving(20, 8), moving(60, 24)
    with pytest.raises(InputError, match="videos have 8 frames a second and references 24: .* give fps"):
        fvd.fvd(slow, fast, fixed_features())
    score = fvd.fvd(slow, [*fast, *moving(20, 24, 2)], fixed_features(), fps=8)
    assert score.value is not None and score.videos == 10
    assert (score.settings["fps"], score.settings["fps_references"]) == (8, [24, 24])
    assert score.settings["too_short"] == {"videos": 0, "references": 2}
    assert "at 8 frames a second" in score.protocol and "2 references shorter than" in score.protocol


def test_ntsc_rates_are_alike_and_a_slower_side_is_never_made_faster():
    assert fvd.rates_differ([30], [30000 / 1001]) == ""
    score = fvd.fvd(moving(20, 8), moving(60, 24), fixed_features(), fps=24)
    assert (
        score.value is None and "10 videos and 0 references slower than the common rate left out" in score.why
    )


@pytest.mark.parametrize(
    ("frames", "at", "to", "kept"), [(48, 24, 8, 16), (49, 24, 8, 17), (17, 8, 8, 17), (30, 29.97, 10, 11)]
)
def test_a_frame_is_on_the_screen_until_its_end(frames, at, to, kept):
    video = Video(
        np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8), at
    )
    made = fvd.resample(video, to)
    assert len(made) == kept and made.fps == to
    assert [int(frame[0, 0, 0]) for frame in made.frames] == [
        min(frames - 1, int(k * at / to + 1e-6)) for k in range(kept)
    ]


def test_the_random_network_is_decided_by_its_seed_alone():
    clip = [np.random.default_rng(0).integers(0, 255, (17, 64, 64, 3), dtype=np.uint8)]
    torch.manual_seed(1)
    first = fixed_features()(clip)
    torch.manual_seed(2)
    assert np.array_equal(first, fixed_features()(clip))
