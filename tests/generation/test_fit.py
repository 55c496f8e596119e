"""A picture of another aspect than the run's: what is cut away is told, with the sizes and settings that keep it."""

from __future__ import annotations

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest

from cogvideox.generation import GenerateOptions, generate
from cogvideox.generation.given import Given, fit_video
from cogvideox.generation.plan import plan_run
from cogvideox.video import Video
from support.models import golden_model, golden_text, small_model
from support.tiny_videos import write_tiny

PORTRAIT = np.full((96, 64, 3), 255, np.uint8)


def warned(model, given: Given, **options) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plan_run(model.spec, GenerateOptions(**options), given)
    return " ".join(str(one.message) for one in told)


@pytest.mark.parametrize(
    "given, what",
    [(Given(image=PORTRAIT), "image"), (Given(video=Video(np.stack([PORTRAIT] * 9), 8.0)), "video")],
)
def test_a_portrait_on_a_landscape_run_tells_how_much_is_cut_and_what_keeps_it(given, what):
    model = small_model("5b")
    said = warned(model, given)
    assert f"{what} of 64x96: 56% of it is cut away to fill 96x64" in said and "fit contain" in said
    width, height = map(int, re.search(r"width (\d+) and height (\d+) keep it", said).groups())
    assert "cut away" not in warned(model, given, width=width, height=height)
    assert "cut away" not in warned(model, given, fit="contain") + warned(model, given, fit="stretch")
    assert "cut away" not in warned(model, Given(image=PORTRAIT.transpose(1, 0, 2)))


def test_a_model_of_one_size_names_no_other():
    said = warned(small_model("5b-i2v"), Given(image=PORTRAIT))
    assert "56% of it is cut away" in said and "keep it" not in said and "fit contain" in said


def test_contain_reaches_the_frames():
    plan = plan_run(small_model("5b").spec, GenerateOptions(fit="contain"), Given(image=PORTRAIT))
    fitted = fit_video(Video(PORTRAIT[None], 1.0), plan.height, plan.width, plan.options.fit)
    assert fitted.frames.shape == (1, 64, 96, 3)
    assert fitted.frames[0, :, 48].min() == 255 and fitted.frames[0, :, :20].max() == 0


def test_the_record_says_how_the_colours_of_the_given_video_were_read(tmp_path):
    path = write_tiny(tmp_path / "given.mkv", 9, Fraction(30), "libx264")
    options = GenerateOptions(video=str(path), steps=2, strength=0.5, seed=1)
    made = generate(golden_model(), options, **golden_text())
    assert made.manifest["inputs"]["given_colours"] == "bt601, limited range (a guess by the frame size)"
    assert (len(made), made.fps) == (9, 30)
