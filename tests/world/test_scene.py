"""The world is the same everywhere, and training never shows what the test asks."""

import itertools
from collections import Counter

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.evaluation.world_facts import two_object_prompts
from cogvideox.world import (
    COLOURS,
    DIRECTIONS,
    HELD_OUT_PAIRS,
    SHAPES,
    TIERS,
    Scene,
    is_held_out_triple,
    render,
    sample_scene,
)

TRAIN = [sample_scene(0, index) for index in range(10_000)]


def _scene(**change) -> Scene:
    values = {"tier": "motion", "colour": "red", "shape": "circle", "radius": 0.15, "centres": ((0.5, 0.5),)}
    return Scene(**{**values, **change})


def test_the_same_seed_and_index_give_the_same_scene_and_clip():
    for index in range(20):
        scene = sample_scene(3, index, "held_out")
        assert scene == sample_scene(3, index, "held_out")
        assert np.array_equal(render(scene), render(scene))


def test_other_indices_seeds_and_splits_give_other_scenes():
    scenes = [sample_scene(s, i, split) for s in (0, 1) for i in range(50) for split in ("train", "held_out")]
    assert len(set(scenes)) == len(scenes)


def test_ten_thousand_training_scenes_hold_no_held_out_pair_or_triple():
    for scene in TRAIN:
        assert (scene.colour, scene.shape) not in HELD_OUT_PAIRS
        assert (scene.colour, scene.into) not in HELD_OUT_PAIRS
        assert not is_held_out_triple(scene.colour, scene.shape, scene.direction)


def test_training_shows_no_two_things_together_that_the_test_asks_for():
    pairs = [sample_scene(0, index, tier="pair") for index in range(2000)]
    asked = {frozenset(two.scene.things) for two in two_object_prompts()}
    assert not asked & {frozenset(scene.things) for scene in pairs}
    assert not any(set(scene.things) & HELD_OUT_PAIRS for scene in pairs)


def test_every_held_out_scene_holds_something_training_lacks():
    assert all(sample_scene(0, index, "held_out").is_held_out for index in range(500))


def test_training_shows_everything_that_is_not_held_out():
    shown = {(s.colour, s.shape, s.direction) for s in TRAIN if s.tier == "motion"}
    allowed = {
        triple
        for triple in itertools.product(COLOURS, SHAPES, DIRECTIONS)
        if triple[:2] not in HELD_OUT_PAIRS and not is_held_out_triple(*triple)
    }
    assert shown == allowed
    assert 0.05 < 1 - len(allowed) / (28 * 4) < 0.2


def test_tiers_have_their_shares():
    counts = Counter(scene.tier for scene in TRAIN)
    for tier, share in TIERS.items():
        assert counts[tier] / len(TRAIN) == pytest.approx(share, abs=0.02)


def test_objects_stay_inside_the_frame():
    for scene in TRAIN[:300]:
        edge = np.ones((64, 64), bool)
        edge[1:-1, 1:-1] = False
        frames = render(scene)[:, edge].astype(int)
        assert (frames.max(-1) - frames.min(-1)).max() == 0  # the ground is grey


@pytest.mark.parametrize(("direction", "step"), DIRECTIONS.items())
def test_travel_of_the_rendered_object_is_the_travel_of_the_scene(direction, step):
    frames = render(_scene(direction=direction, speed="fast", radius=0.12)).astype(float)
    chroma = frames.max(-1) - frames.min(-1)
    y, x = np.mgrid[:64, :64]
    centre = np.stack([(chroma * x).sum((1, 2)), (chroma * y).sum((1, 2))], -1) / chroma.sum((1, 2))[:, None]
    assert np.allclose(centre[-1] - centre[0], 0.5 * 64 * np.array(step), atol=0.2)


def test_shapes_of_equal_radius_have_nearly_equal_areas():
    areas = [np.ptp(render(_scene(shape=shape))[0], axis=-1).sum(dtype=float) for shape in SHAPES]
    assert max(areas) / min(areas) < 1.2


def test_growth_scales_area_by_the_square():
    frames = render(_scene(change="grow", radius=0.11))
    area = (np.ptp(frames, axis=-1) > 70).sum((1, 2))
    assert area[-1] / area[0] == pytest.approx(1.8**2, rel=0.08)


def test_a_transformation_starts_and_ends_in_the_pure_shapes():
    frames = render(_scene(change="transform", into="ring"))
    assert np.array_equal(frames[0], render(_scene())[0])
    assert np.array_equal(frames[-1], render(_scene(shape="ring"))[-1])


def test_the_ground_moves_against_the_camera_as_a_whole():
    frames = render(_scene(camera="right", radius=0.12), frames=17)
    shift = 0.35 * 64  # in 16 steps: 1.4 pixels a frame, 7 pixels in 5
    assert shift / 16 * 5 == pytest.approx(7)
    difference = frames[0, :10, 7:].astype(int) - frames[5, :10, :-7]
    assert np.abs(difference).max() <= 1


def test_the_ground_is_grey_of_low_contrast():
    pixels = np.concatenate([render(scene)[0, :3].ravel() for scene in TRAIN[:200]])
    assert pixels.mean() == pytest.approx(95, abs=3)
    assert pixels.std() == pytest.approx(10, abs=2)


def test_other_sizes_and_lengths_render_the_same_picture():
    scene = sample_scene(0, 1)
    large = render(scene, size=128, frames=9)
    assert large.shape == (9, 128, 128, 3)
    small = large.reshape(9, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - render(scene, frames=9)).mean() < 1.0


def test_unknown_names_are_refused_with_the_options():
    with pytest.raises(InputError, match="train"):
        sample_scene(0, 0, "tain")
    with pytest.raises(InputError, match="motion"):
        sample_scene(0, 0, tier="motoin")
    with pytest.raises(InputError, match="16 pixels"):
        render(sample_scene(0, 0), size=4)
