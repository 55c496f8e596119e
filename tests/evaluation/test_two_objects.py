"""Two different things: the judge is right about the truth, and notices what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cogvideox.evaluation.flaws import spoil
from cogvideox.evaluation.two_objects import judge_two, render_two, two_object_prompts, two_objects
from cogvideox.video import Video

PROMPTS = two_object_prompts()
SOME = PROMPTS[:20]


def test_sixty_prompts_each_about_two_colours_and_shapes():
    assert len({two.prompt for two in PROMPTS}) == 60
    assert all(two.first[0] != two.second[0] and two.first[1] != two.second[1] for two in PROMPTS)
    assert {two.relation for two in PROMPTS} == {"", "left", "right", "above", "below"}


def test_truth_holds_every_fact_blurred_and_noisy_too():
    rng = np.random.default_rng(0)
    for two in PROMPTS:
        assert judge_two(render_two(two, frames=5), two)["two_all"], two
    for two in SOME:
        assert judge_two(spoil(render_two(two, frames=5), "blur", 0.3, rng), two)["two_all"], two
        assert judge_two(spoil(render_two(two, frames=5), "noise", 0.25, rng), two)["two_all"], two


def test_swapped_colours_a_turned_relation_and_a_missing_thing_are_noticed():
    for two in SOME:
        frames = render_two(two, frames=5)
        swapped = replace(two, first=(two.second[0], two.first[1]), second=(two.first[0], two.second[1]))
        found = judge_two(frames, swapped)
        assert found["two_colours"] and not found["two_bound"] and not found["two_all"]
        if two.relation:
            turned = replace(two, first=two.second, second=two.first)
            assert not judge_two(frames, turned)["two_relation"]
        other = replace(two, first=(two.first[0], two.second[1]))
        assert not judge_two(frames, other)["two_all"]
    empty = np.full((5, 64, 64, 3), 95, np.uint8)
    assert not any(judge_two(empty, PROMPTS[0]).values())


def test_scores_stand_on_the_suites_prompts_only():
    videos = [Video(render_two(two, frames=5), 8) for two in SOME[:4]]
    scores = {score.name: score for score in two_objects([*videos, videos[0]], [*SOME[:4], None])}
    assert scores["two_all"].value == 1 and scores["two_all"].videos == 4
    assert scores["two_relation"].videos == sum(bool(two.relation) for two in SOME[:4])
