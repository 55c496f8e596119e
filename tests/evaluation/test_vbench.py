"""VBench's rules against cases worked out by hand; its names and totals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.evaluation import vbench
from cogvideox.evaluation.prompt_suites import prompt_suite
from cogvideox.perception.experts import read_recorded
from cogvideox.video import Video


def video(name: str = "a-0.mp4", frames: int = 32, fps: float = 8, side: int = 16) -> Video:
    return Video(np.zeros((frames, side, side, 3), np.uint8), fps, {"file": name})


@pytest.fixture
def experts(tmp_path):
    """Two videos as recorded elsewhere: the first does everything half the time, the second nothing."""
    rows = [
        {"models": {"objects": "GRiT", "captions": "Tag2Text", "actions": "UMT", "flow": "RAFT"}},
        {
            "file": "a-0.mp4",
            "objects": [["cat", "dog"]] * 8 + [["cat"]] * 4 + [["catalog", "dog"]] * 4,
            "captions": ["a gas station at night"] * 4 + ["a station"] * 12,
            "actions": {"riding a bike": 0.85, "running": 0.99, "a": 0.98, "b": 0.97, "c": 0.96},
            "flow": [0.4] * 8 + [0.3] * 23,
        },
        {
            "file": "b-0.mp4",
            "objects": [[]] * 16,
            "captions": ["nothing"] * 16,
            "actions": {"riding a bike": 0.8499},
            "flow": [0.4] * 7 + [0.3] * 24,
        },
    ]
    file = tmp_path / "observations.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return read_recorded(file)


BOTH = [video("a-0.mp4"), video("b-0.mp4")]


def test_middle_frames_are_those_of_equal_segments():
    assert vbench.middle_frames(16) == list(range(16))
    assert vbench.middle_frames(49)[:3] == [1, 4, 7] and vbench.middle_frames(49)[-1] == 46
    assert vbench.middle_frames(3) == [0, 1, 2] + [2] * 13


def test_multiple_objects_counts_frames_that_hold_both(experts):
    """8 of 16 frames hold a cat and a dog; a catalog is no cat. Over both videos 8 of 32."""
    score = vbench.multiple_objects(BOTH, ["cat and dog"] * 2, experts["objects"])
    assert score.each == (0.5, 0.0) and score.value == 0.25
    assert score.settings == {"network": "GRiT"}


def test_scene_asks_for_every_word_of_its_name(experts):
    assert vbench.scene(BOTH, ["gas station"] * 2, experts["captions"]).each == (0.25, 0.0)


def test_an_action_must_be_among_five_and_sure(experts):
    assert vbench.human_action(BOTH, ["riding a bike"] * 2, experts["actions"]).each == (1.0, 0.0)
    assert vbench.action_of("A person is riding a bike") == "riding a bike"
    assert vbench.action_of("A person is doing a hand-stand-3.mp4") == "doing a hand"  # as published


def test_a_sixth_action_does_not_count(experts):
    first = experts["actions"].answers["a-0.mp4"]
    first["d"] = 0.951
    assert vbench.human_action(BOTH[:1], ["riding a bike"], experts["actions"]).value == 0.0


def test_dynamic_degree_needs_a_quarter_of_the_pairs(experts):
    """32 frames at a short side of 16: limit 6 * 16 / 256 = 0.375, needed round(4 * 32 / 16) = 8 pairs."""
    assert vbench.dynamic_degree(BOTH, experts["flow"]).each == (1.0, 0.0)


@pytest.mark.parametrize(("frames", "needed"), [(16, 4), (49, 12), (17, 4), (33, 8), (2, 0)])
def test_pairs_that_must_move(frames, needed):
    pairs = [7.0] * needed + [1.0] * 60
    assert vbench.moves(pairs, frames, 256)
    if needed:
        assert not vbench.moves(pairs[1:], frames, 256)


def test_the_limit_follows_the_short_side_and_low_rates():
    assert vbench.moves([11.26] * 12, 49, 480) and not vbench.moves([11.24] * 12, 49, 480)
    assert vbench.moves([6.1] * 4, 16, 256, fps=30) and not vbench.moves([6.1] * 4, 16, 256, fps=4)


def test_frames_are_looked_at_eight_times_a_second():
    assert len(vbench.frames_at_8_fps(video(frames=32, fps=8))) == 32
    assert len(vbench.frames_at_8_fps(video(frames=32, fps=16))) == 16
    assert len(vbench.frames_at_8_fps(video(frames=30, fps=30))) == 8


def test_the_filter_of_still_scenes():
    assert vbench.is_still([2.9] * 15, 5.9, 16, 256)
    assert not vbench.is_still([3.1] * 2 + [0] * 13, 0, 16, 256)
    assert not vbench.is_still([0] * 15, 6.1, 16, 256)


class Words:
    """Text and picture meet by brightness: white fits 'white', nothing else."""

    name = "brightness"

    def images(self, frames):
        level = frames.mean((1, 2, 3)) / 255
        return np.stack([level, np.sqrt(1 - level**2)], 1)

    def texts(self, texts):
        return np.array([[1.0, 0.0] if text == "white" else [0.0, 1.0] for text in texts])


def test_appearance_style_is_the_mean_of_all_frames_of_all_videos():
    """A white video of 3 frames and a black one of 1: (3 * 1 + 0) / 4, not the mean of videos."""
    white = Video(np.full((3, 8, 8, 3), 255, np.uint8), 8)
    score = vbench.appearance_style([white, video(frames=1)], ["white"] * 2, Words())
    assert score.value == pytest.approx(0.75) and score.each == (1.0, 0.0)


def test_without_its_network_a_dimension_is_not_computed():
    for measure in (vbench.multiple_objects, vbench.scene, vbench.human_action, vbench.appearance_style):
        score = measure(BOTH, ["x"] * 2, None)
        assert score.value is None and "needs" in score.why
    assert "RAFT" in vbench.dynamic_degree(BOTH, None).why


def test_an_answer_that_was_not_recorded_is_an_error(experts):
    with pytest.raises(InputError, match="c-0.mp4"):
        vbench.scene([video("c-0.mp4")], ["alley"], experts["captions"])


@pytest.mark.parametrize(
    "text", ["", "[]", '{"models": {}}\n[]', '{"models": {"objects": "x"}}\n{"file": "a", "objects": 3}']
)
def test_a_record_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError):
        read_recorded(tmp_path / "r.jsonl")


def test_the_total_weighs_quality_four_to_one():
    assert vbench.combine(0.82, 0.76)["total"] == pytest.approx(0.808)
    best = {name: high for name, (_, high) in vbench.BOUNDS.items()}
    assert vbench.total(best) == pytest.approx({"quality": 1.0, "semantic": 1.0, "total": 1.0})
    still = vbench.total(best | {"dynamic_degree": 0.0})
    assert still["quality"] == pytest.approx(6 / 6.5)
    with pytest.raises(InputError, match="missing"):
        vbench.total({"scene": 0.5})
    assert [score.value for score in vbench.totals(best)] == [1.0, 1.0, 1.0]
    assert all("15 of 16" in score.why for score in vbench.totals({"scene": 0.5}))
    assert all("--vbench-results" in score.why for score in vbench.totals(None))


def test_names_go_out_and_come_back():
    for row in prompt_suite("vbench"):
        assert vbench.import_name(vbench.export_name(row.short, 4)) == (row.short, 4)
    with pytest.raises(InputError):
        vbench.export_name("a/b", 0)
    with pytest.raises(InputError):
        vbench.import_name("video.mp4")


def test_results_of_vbench_are_read():
    record = {"scene": [0.55, []], "dynamic_degree": 0.62, "other": 1}
    assert vbench.read_results(record) == {"scene": 0.55, "dynamic_degree": 0.62}
    for none in ({}, [], {"scene": []}, {"scene": "much"}):
        with pytest.raises(InputError, match="eval_results"):
            vbench.read_results(none)


def test_the_prompt_suites_are_whole():
    short, long = prompt_suite("vbench"), prompt_suite("vbench-long")
    assert len(short) == len(long) == 946 == len({row.id for row in long})
    assert [row.short for row in short] == [row.short for row in long]
    assert sum("scene" in row.dimensions for row in short) == 86
    assert all(row.facts["scene"] for row in short if "scene" in row.dimensions)
    assert sum(len(row.prompt) for row in long) > 10 * sum(len(row.prompt) for row in short)
    assert len(prompt_suite("gallery")) == 12 and len(prompt_suite("compositional")) == 70
    with pytest.raises(InputError, match="vbench"):
        prompt_suite("vbanch")
