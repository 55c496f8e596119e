"""The world through an autoencoder, with coders whose result is known."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.evaluation.reconstruction import evaluate_reconstruction, psnr
from cogvideox.world import held_out_prompts

PROMPTS = held_out_prompts()[:6]


def test_an_identity_keeps_every_fact_and_a_grey_coder_none():
    whole = evaluate_reconstruction(lambda frames: frames, PROMPTS)
    assert all(row.right == row.asked for row in whole.report.rows)
    assert "lowest inf dB" in whole.table()
    grey = evaluate_reconstruction(lambda frames: np.full_like(frames, 95), PROMPTS)
    assert next(row for row in grey.report.rows if row.kind == "shape").right == 0


def test_psnr_is_that_of_a_known_error():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(truth + 255, truth) == pytest.approx(0)
    assert psnr(truth + 16, truth) == pytest.approx(20 * np.log10(255 / 16))
