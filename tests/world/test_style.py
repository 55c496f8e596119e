"""The rich style says, shows and judges more; the plain one is what it was."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.world import (
    COLOURS,
    STYLES,
    TIERS,
    Check,
    caption,
    check_facts,
    coverage,
    facts,
    guide_video,
    held_out_prompts,
    is_held_out_triple,
    make_held_out_prompts,
    read_caption,
    render,
    sample_scene,
    silhouettes,
)
from cogvideox.world.captions import PASSING
from cogvideox.world.cells import CELL_FACTS, cell_fact_names, cell_facts
from cogvideox.world.fact_check import find
from cogvideox.world.rendering import accent_coverage, thing_coverage
from cogvideox.world.silhouette import silhouette_agreement
from cogvideox.world.validate import agreement_table, validate, wrong_facts
from cogvideox.world.vocabulary import unknown_words

RICH = STYLES["rich"]
TRAIN = [sample_scene(0, index, style="rich") for index in range(3000)]
FRAMES = 17
PIXELS = [
    21212985,
    21212985,
    21309994,
    20346478,
    20376118,
    20474205,
    21130261,
    21305522,
    19503349,
    19503349,
    20388599,
    20642787,
    18613427,
    20069163,
    20324469,
    21015264,
]
"""Sums of all pixels of plain clips."""


def _rich(tier: str, index: int):
    return sample_scene(4, index, "train", tier, style="rich")


def test_the_plain_world_is_what_it_was():
    words, pixels = hashlib.sha256(), []
    for split in ("train", "held_out"):
        for tier in (None, *TIERS):
            for index in range(12):
                scene = sample_scene(5, index, split, tier)
                said = caption(scene, 5, index)
                drawn = (scene.tier, scene.colour, scene.shape, scene.radius, scene.centres, scene.direction)
                drawn += (scene.speed, scene.change, scene.into, scene.camera, scene.ground, scene.second)
                known = [check.to_dict() for check in read_caption(said)]
                words.update(repr((*drawn, scene.relation, said, known)).encode())
                if index == 0:
                    pixels.append(int(render(scene).sum(dtype=np.int64)))
    assert words.hexdigest()[:16] == "0b70da0ad5e2da3a"
    assert pixels == pytest.approx(PIXELS, abs=20)  # a product may be rounded otherwise elsewhere
    prompts = "".join(prompt.to_json() for prompt in held_out_prompts())
    assert hashlib.sha256(prompts.encode()).hexdigest()[:16] == "1d66d96ac1317c1b"
    assert cell_fact_names("plain") == CELL_FACTS
    assert str(sample_scene(0, 0)).endswith("relation='none')")  # seeds the things of suite inpaint


def test_every_phrasing_states_the_facts_of_its_scene_in_known_words():
    for split in ("train", "held_out"):
        for index in range(1000):
            scene = sample_scene(9, index, split, style="rich")
            said = caption(scene, 9, index)
            assert read_caption(said, "rich") == facts(scene), said
            assert not unknown_words(said, "rich") and len(said.split()) <= 24


def test_each_story_has_several_phrasings():
    for tier in RICH.tiers:
        scene = _rich(tier, 0)
        said = {caption(scene, 0, index).lower().rstrip(".") for index in range(60)}
        assert len(said) >= (2 if scene.relation != "none" else 5), tier


def test_training_shows_no_held_out_combination():
    for scene in TRAIN:
        assert not {*scene.things, (scene.colour, scene.into)} & RICH.held_out_pairs
        for thing, direction in zip(scene.things, scene.directions, strict=True):
            assert not is_held_out_triple(*thing, direction)
        assert scene.accent is None or not is_held_out_triple(scene.colour, scene.shape, scene.accent)


def test_training_shows_every_story_shape_ground_and_number():
    assert {scene.tier for scene in TRAIN} == set(RICH.tiers)
    assert {shape for scene in TRAIN for _, shape in scene.things} == set(RICH.shapes)
    assert {scene.texture for scene in TRAIN} == set(RICH.textures)
    assert {scene.texture for scene in TRAIN if scene.tier == "pan"} == set(RICH.panned)
    assert {scene.count for scene in TRAIN if scene.tier == "count"} == {1, *RICH.numbers}
    assert {(scene.front, scene.second_direction == "none") for scene in TRAIN if scene.tier == "meet"} == {
        (front, rests) for front in PASSING for rests in (True, False)
    }


def test_the_list_of_prompts_is_made_again_and_names_its_style():
    prompts = held_out_prompts("rich")
    assert prompts == make_held_out_prompts(style="rich")
    assert len({prompt.prompt for prompt in prompts}) == 200
    assert all(prompt.scene.is_held_out and prompt.scene.style == "rich" for prompt in prompts)


@pytest.mark.parametrize("tier", RICH.tiers)
def test_things_stay_inside_the_frame_and_apart_at_both_ends(tier):
    for index in range(12):
        scene = _rich(tier, index)
        covered = thing_coverage(scene, 128, 9)
        assert covered.dtype == accent_coverage(scene, 128, 9).dtype == np.float32
        assert covered[..., [0, -1], :].max() < 0.5 and covered[..., [0, -1]].max() < 0.5
        assert not (covered[:, [0, -1]] > 0.5).sum(axis=0).max() > 1


def test_who_is_in_front_decides_what_is_seen():
    for front in ("first", "second"):
        scene = replace(
            _rich("meet", 0), front=front, colour="red", shape="circle", second=("blue", "square"), texture="cloud"
        )  # fmt: skip
        seen = render(scene, 128, 9)[4].astype(int)
        shown = {colour: (np.abs(seen - COLOURS[colour]).sum(-1) < 30).sum() for colour in ("red", "blue")}
        hidden = "blue" if front == "first" else "red"
        whole = np.pi * scene.radius**2 * 128**2
        assert shown[hidden] < 0.5 * whole < 0.85 * whole < shown["red" if hidden == "blue" else "blue"]
        first, second = thing_coverage(scene, 128, 9)[:, 4].sum((1, 2))
        assert (first > second) == (front == "first")


def test_the_grounds_are_grey_and_low_in_contrast():
    for texture in RICH.textures:
        for index in range(4):
            scene = replace(_rich("motion", index), texture=texture)
            ground = render(scene, 128, 1)[0][coverage(scene, 128, 1)[0] == 0].astype(float)
            assert np.ptp(ground, axis=1).max() <= 21 and ground.mean() == pytest.approx(95, abs=14)
            assert 3 < ground.std() < 20


def test_parts_have_their_colour_and_their_share_of_the_cells():
    scene = next(each for each in TRAIN if each.shape == "mushroom" and each.tier == "motion")
    names, grid = cell_fact_names("rich"), (5, 16, 16)
    cells = dict(zip(names, cell_facts(scene, 128, 17, grid), strict=True))
    accent, whole = accent_coverage(scene, 128, 17).sum(), coverage(scene, 128, 17).sum()
    assert 0.2 < accent / whole < 0.35
    assert cells[scene.accent].sum() / cells["covered"].sum() == pytest.approx(accent / whole, abs=0.03)
    both = cells[scene.accent] + cells[scene.colour]
    assert np.allclose(both, cells["covered"], atol=0.02)


def test_guides_are_as_large_and_long_as_the_clip():
    scene = _rich("meet", 1)
    assert silhouettes(scene).shape == (33, 128, 128)
    assert guide_video(scene, "path").shape == render(scene).shape == (33, 128, 128, 3)


@pytest.mark.parametrize("tier", RICH.tiers)
def test_the_judge_reads_the_truth_and_refuses_one_wrong_fact(tier):
    rng = np.random.default_rng(0)
    for index in range(2):
        scene = _rich(tier, index)
        frames = render(scene, frames=FRAMES)
        verdict = check_facts(frames, facts(scene), "rich")
        assert verdict.all_hold, caption(scene, 4, index)
        for _ in range(10):
            wrong = wrong_facts(facts(scene), rng, "rich")
            assert not all(find(check, verdict.reading).holds for check in wrong), wrong
        assert silhouette_agreement(frames, scene) > (0.8 if scene.change == "transform" else 0.82)


def test_two_things_that_stand_apart_hide_nothing():
    scene = _rich("duet", 0)
    (colour, shape), (other, second) = scene.things
    stated = Check("front", f"{colour} {shape} in front of {other} {second}")
    verdict = check_facts(render(scene, frames=FRAMES), [stated], "rich")
    assert not verdict.all_hold and verdict.findings[0].seen == "apart"


def test_the_judge_is_right_on_damaged_clips_of_the_rich_style():
    result = validate(6, "blur 1 + noise 10", style="rich", wrong=True)
    table = agreement_table([result]).splitlines()
    assert result.share("all") == result.share("refused") == 1, table
    assert len({line.count("|") for line in table}) == 1
    assert table[0].endswith("| all | refused |") and table[2].endswith("| 1.000 | 1.000 |")


def test_facts_of_the_rich_style_are_unknown_to_the_plain_one():
    with pytest.raises(InputError, match="front"):
        check_facts(render(sample_scene(0, 0)), [Check("front", "red circle behind blue ring")])
    with pytest.raises(InputError, match="rich"):
        sample_scene(0, 0, style="ritch")
    with pytest.raises(InputError, match="in front of"):
        check_facts(render(_rich("meet", 0), frames=9), [Check("front", "red over blue")], "rich")
