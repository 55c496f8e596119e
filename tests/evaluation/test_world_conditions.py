"""Suites of models that read more than a prompt: the truth is right, what ignores the condition is not."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.evaluation.world_conditions import (
    CONDITION_SUITES,
    FACTS_OF,
    brought,
    condition_scores,
    mask_over,
    masked_clip,
    other_thing,
)
from cogvideox.video import Video
from cogvideox.world import held_out_prompts, render, silhouettes

PROMPTS = held_out_prompts()[:16]


@pytest.mark.parametrize("suite", CONDITION_SUITES)
def test_the_truth_is_right_and_another_answer_is_not(suite):
    texts = [prompt.prompt for prompt in PROMPTS]
    truth = [Video(render(prompt.scene), 8.0) for prompt in PROMPTS]
    others = [*truth[1:], truth[0]]
    good, bad = ({s.name: s for s in condition_scores(suite, videos, texts)} for videos in (truth, others))
    shares = [name for name in good if not name.endswith(("psnr", "distance"))]
    assert all(good[name].value == 1 for name in shares), {name: good[name].value for name in shares}
    assert all(bad[name].value < 0.4 for name in shares), {name: bad[name].value for name in shares}
    assert all(good[name].low < 1 and good[name].videos == 16 for name in shares)
    if suite == "control":
        assert good["control_distance"].value < 0.02 < 0.1 < bad["control_distance"].value


def test_what_is_given_shows_another_thing_below_a_mask_that_covers_both():
    for prompt in PROMPTS[:12]:
        scene, other = prompt.scene, other_thing(prompt.scene)
        assert other.colour != scene.colour and other.shape not in (scene.shape, scene.into)
        given = brought("inpaint", scene)
        hidden = given["mask"] > 0
        assert hidden[silhouettes(scene)].all() and hidden[silhouettes(other)].all()
        clip, truth = given["video"].frames, render(scene)
        assert np.array_equal(clip[~hidden], truth[~hidden]) and not np.array_equal(clip, truth)
        assert 0.03 < hidden.mean() < 0.6
    unfilled = [FACTS_OF["inpaint"](masked_clip(prompt.scene), prompt.scene) for prompt in PROMPTS[:12]]
    assert all(found["unchanged"] and not found["both"] for found in unfilled)


def test_a_changed_ground_is_no_unchanged_one():
    scene = PROMPTS[0].scene
    rest = render(scene).astype(int)
    rest[mask_over(scene) == 0] += 8
    found = FACTS_OF["inpaint"](rest.clip(0, 255).astype(np.uint8), scene)
    assert found["replaced"] and not found["unchanged"] and 29 < found["outside_psnr"] < 31


def test_videos_of_other_prompts_are_left_out():
    scores = condition_scores("control", [Video(render(PROMPTS[0].scene), 8.0)], ["a cat"])
    assert all(score.value is None for score in scores)
