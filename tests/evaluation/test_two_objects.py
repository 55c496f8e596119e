"""Two different things: the judge is right about the truth, and notices what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cogvideox.evaluation.world_facts import check_two_objects, two_object_prompts, two_object_scores
from cogvideox.video import Video
from cogvideox.world import render
from cogvideox.world.distortions import distort

PROMPTS = two_object_prompts()
SCENES = [two.scene for two in PROMPTS]
SOME = SCENES[:20]


def test_sixty_held_out_prompts_each_about_two_colours_and_shapes():
    assert len({two.prompt for two in PROMPTS}) == 60
    for scene in SCENES:
        (colour, shape), (other_colour, other_shape) = scene.things
        assert scene.is_held_out and colour != other_colour and shape != other_shape
    assert {scene.relation for scene in SCENES} == {"none", "left", "right", "above", "below"}


def test_truth_holds_every_fact_blurred_and_noisy_too():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        assert check_two_objects(render(scene, frames=5), scene)["two_all"], scene
    for scene in SOME:
        assert check_two_objects(distort(render(scene, frames=5), "blur", 0.3, rng), scene)["two_all"], scene
        assert check_two_objects(distort(render(scene, frames=5), "noise", 0.25, rng), scene)["two_all"], (
            scene
        )


def test_swapped_colours_a_turned_relation_and_a_missing_thing_are_noticed():
    for scene in SOME:
        frames = render(scene, frames=5)
        (colour, shape), (other_colour, other_shape) = scene.things
        found = check_two_objects(frames, replace(scene, colour=other_colour, second=(colour, other_shape)))
        assert found["two_colours"] and not found["two_bound"] and not found["two_all"]
        if scene.relation != "none":
            turned = replace(scene, colour=other_colour, shape=other_shape, second=(colour, shape))
            assert not check_two_objects(frames, turned)["two_relation"]
        assert not check_two_objects(frames, replace(scene, shape=other_shape))["two_all"]
    empty = np.full((5, 64, 64, 3), 95, np.uint8)
    assert not any(check_two_objects(empty, SCENES[0]).values())


def test_scores_stand_on_the_suites_prompts_only():
    videos = [Video(render(scene, frames=5), 8) for scene in SOME[:4]]
    prompts = [two.prompt for two in PROMPTS[:4]]
    scores = {score.name: score for score in two_object_scores([*videos, videos[0]], [*prompts, ""])}
    assert scores["two_all"].value == 1 and scores["two_all"].videos == 4
    assert scores["two_relation"].videos == sum(scene.relation != "none" for scene in SOME[:4])
