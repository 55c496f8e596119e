"""Turned hues never show a combination that is held out."""

import numpy as np
import pytest
import torch

from cogvideox.training.tasks.crops import turn_hues
from cogvideox.world import COLOURS, HELD_OUT_PAIRS, read_frames, render, sample_scene
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


@pytest.mark.parametrize("colour", COLOURS)
def test_the_fact_check_reads_nothing_held_out_from_turned_pixels(colour):
    """The pixels themselves, turned and cut off as training does it, seen by the judge of the world."""
    scenes = (sample_scene(3, number, "train", "motion") for number in range(400))
    shapes = {scene.shape: scene for scene in scenes if scene.colour == colour and scene.into is None}
    assert len(shapes) >= 3
    for scene in shapes.values():
        pixels = torch.from_numpy(render(scene)[:1]).permute(3, 0, 1, 2).float() / 127.5 - 1
        for turn in free_turns(scene):
            turned = (
                ((turn_hues(pixels, turn) + 1) * 127.5).round().permute(1, 2, 3, 0).numpy().astype(np.uint8)
            )
            read = {(thing.colour, scene.shape) for thing in read_frames(turned.repeat(5, 0)).things[0]}
            assert not read & HELD_OUT_PAIRS, turn
