"""Turned hues never show a combination that is held out."""

import pytest

from cogvideox.world import COLOURS, HELD_OUT_PAIRS, sample_scene
from cogvideox.world.hues import NEAR, TURNS, free_turns, hue

SCENES = [
    sample_scene(5, number, "train", tier)
    for number in range(12)
    for tier in ("motion", "transform", "count")
]


def apart(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def test_hues_of_the_world_are_in_the_order_of_the_rainbow():
    angles = [(hue(colour) + 20) % 360 for colour in COLOURS.values()]
    assert angles == sorted(angles)
    assert hue((255, 0, 0)) == 0
    assert hue((0, 255, 0)) == pytest.approx(120)
    assert hue((0, 0, 255)) == pytest.approx(240)


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_no_turn_comes_near_a_colour_that_a_shape_is_held_out_in(scene):
    shapes = {scene.shape, scene.into} - {None}
    kept_away = [hue(COLOURS[colour]) for colour, shape in HELD_OUT_PAIRS if shape in shapes]
    turns = free_turns(scene)
    assert 0 in turns, "the scene itself is one to train on"
    for turn in turns:
        turned = hue(COLOURS[scene.colour]) + turn
        assert all(apart(turned, away) > NEAR for away in kept_away), turn
    assert len(turns) >= 12, "most hues are still seen"


def test_motions_and_meetings_that_are_held_out_stay_so():
    """Without held-out shapes near, what is left out of a moving thing's turns are its held-out directions."""
    moving = [sample_scene(5, number, "train", "motion") for number in range(40)]
    meetings = [sample_scene(5, number, "train", "pair") for number in range(20)]
    assert any(len(free_turns(scene)) < len(TURNS) for scene in moving)
    for scene in meetings:
        assert 0 in free_turns(scene)
        for thing in scene.things:
            away = [hue(COLOURS[colour]) for colour, shape in HELD_OUT_PAIRS if shape == thing[1]]
            assert all(
                apart(hue(COLOURS[thing[0]]) + turn, each) > NEAR
                for turn in free_turns(scene)
                for each in away
            )
