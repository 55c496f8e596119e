"""The judge agrees with rendered truth, and refuses what is not true."""

from dataclasses import replace

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.world import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Check,
    check_facts,
    facts,
    read_frames,
    render,
    report,
    sample_scene,
)
from cogvideox.world.foreground import label_pieces
from cogvideox.world.validate import agreement_table, confusion_table, validate


@pytest.mark.parametrize("corruption", ["clean", "blur 1 + noise 10"])
def test_the_judge_is_right_on_99_percent_of_rendered_truth(corruption):
    result = validate(150, corruption)
    assert min(result.share(kind) for kind in result.asked) >= 0.99, agreement_table([result])
    assert result.share("all") >= 0.98
    assert f"| {corruption} | 1.000 |" in agreement_table([result])
    assert "| red |" in confusion_table(result, "colour")


def test_the_judge_refuses_wrong_facts():
    options = {
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "count": (1, 2, 3),
        "direction": tuple(DIRECTIONS),
        "speed": ("slow", "fast"),
        "change": ("grow", "shrink", "rotate"),
        "camera": ("left", "right", "up", "down"),
    }
    refused = asked = 0
    for index in range(45):
        scene = sample_scene(11, index)
        for check in facts(scene):
            wrong = [replace(check, value=v, into=None) for v in options[check.kind] if v != check.value]
            findings = check_facts(render(scene), wrong).findings
            refused += sum(not finding.holds for finding in findings)
            asked += len(findings)
    assert refused / asked >= 0.99
    assert asked > 400


def test_the_judge_sees_no_story_that_was_not_told():
    for tier in ("motion", "count", "pan"):
        for index in range(6):
            scene = sample_scene(12, index, tier=tier)
            seen = read_frames(render(scene))
            assert (seen.change, seen.camera, seen.direction) == ("none", scene.camera, scene.direction)


def test_a_transformation_into_another_shape_than_asked_fails():
    scene = sample_scene(0, 3, tier="transform")
    other = next(shape for shape in SHAPES if shape not in (scene.shape, scene.into))
    assert check_facts(render(scene), [Check("change", "transform", into=scene.into)]).all_hold
    assert not check_facts(render(scene), [Check("change", "transform", into=other)]).all_hold
    assert not check_facts(render(replace(scene, into=None, change="none")), facts(scene)).all_hold


def test_clips_without_anything_hold_nothing():
    checks = facts(sample_scene(0, 0))
    for frames in (np.zeros((17, 64, 64, 3), np.uint8), np.full((17, 64, 64, 3), 95, np.uint8)):
        assert not any(
            finding.holds for finding in check_facts(frames, checks).findings if finding.check.kind != "speed"
        )
        assert not check_facts(frames, checks).all_hold


def test_noise_is_judged_without_failing():
    frames = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    assert not check_facts(frames, facts(sample_scene(0, 0))).all_hold


def test_a_colour_that_changes_midway_is_not_that_colour():
    scene = sample_scene(0, 0, tier="motion")
    frames = render(scene)
    other = "green" if scene.colour != "green" else "red"
    frames[8:] = render(replace(scene, colour=other))[8:]
    assert not check_facts(frames, [Check("colour", scene.colour)]).all_hold


def test_an_object_that_appears_late_breaks_the_count():
    one = sample_scene(0, 0, tier="rotate")
    two = replace(one, change="none", radius=0.1, centres=((0.25, 0.5), (0.75, 0.5)))
    frames = render(two)
    frames[:9] = render(replace(two, centres=two.centres[:1]))[:9]
    assert check_facts(frames, [Check("count", 2)]).findings[0].confidence < 0.6


def test_the_judge_is_deterministic_and_leaves_its_input_alone():
    scene = sample_scene(0, 2)
    frames = render(scene)
    before = frames.copy()
    assert check_facts(frames, facts(scene)) == check_facts(frames, facts(scene))
    assert np.array_equal(frames, before)


def test_verdicts_take_checks_as_plain_values_and_give_them():
    scene = sample_scene(0, 4)
    record = check_facts(render(scene), [check.to_dict() for check in facts(scene)]).to_dict()
    assert record["all"] and all(check["holds"] for check in record["checks"])


def test_facts_of_two_things_have_rows_and_a_relation_must_be_one():
    scene = sample_scene(0, 3, tier="pair")
    rows = {row.kind: row for row in report([check_facts(render(scene), facts(scene))])}
    assert rows["thing"].right == rows["thing"].asked == 1
    with pytest.raises(InputError, match="red circle left of blue square"):
        check_facts(render(scene), [Check("relation", "nonsense")])


def test_arrays_that_are_no_clip_are_refused():
    with pytest.raises(InputError, match="uint8"):
        check_facts(np.zeros((17, 64, 64, 3), np.float32), [])
    with pytest.raises(InputError, match="t >= 5"):
        check_facts(np.zeros((1, 64, 64, 3), np.uint8), [])
    with pytest.raises(InputError, match="smell"):
        check_facts(render(sample_scene(0, 0)), [Check("smell", "sweet")])
    with pytest.raises(InputError, match="did you mean 'clean'"):
        validate(1, "claen")


def test_pieces_are_8_connected_and_never_join_across_frames():
    mask = np.zeros((2, 5, 6), bool)
    mask[0, [0, 1, 2, 1, 0], [0, 1, 2, 3, 4]] = True  # a V: one piece
    mask[0, 4, 0] = mask[1, 0, 0] = True  # the last row and the next frame's first row
    labels = label_pieces(mask)
    assert len(set(labels[0][mask[0]])) == 2
    assert len(set(labels[mask])) == 3
    assert (labels[~mask] == 0).all()
