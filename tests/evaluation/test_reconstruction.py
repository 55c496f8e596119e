"""The world through an autoencoder, with coders whose result is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideox import Video, load
from cogvideox.evaluation.fidelity import psnr_of_clip, round_trip
from cogvideox.world import held_out_prompts, render

PROMPTS = held_out_prompts()[:6]


def test_psnr_is_that_of_a_known_error():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr_of_clip(truth + 255, truth) == pytest.approx(0)
    assert psnr_of_clip(truth + 16, truth) == pytest.approx(20 * np.log10(255 / 16))


def test_a_round_trip_is_the_autoencoders_mean_and_back():
    vae = load("tiny").vae
    frames = render(PROMPTS[0].scene)
    video = Video(frames, 8)
    with torch.inference_mode():
        expected = vae.decode(vae.encode(video.to_tensor()).mode())
    back = round_trip(vae)(frames)
    assert np.array_equal(back, Video.from_tensor(expected, 8).frames)
    assert 25 < psnr_of_clip(back, frames) < 60
