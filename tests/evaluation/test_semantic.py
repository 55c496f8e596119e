"""MTScore with a scripted judge: which frames, which grades count, what is recorded."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.chat import Chat, ChatConfig, Replay, Scripted
from cogvideox.evaluation.semantic import judge_frames, mtscore, question_about
from cogvideox.video import Video

CONFIG = ChatConfig(concurrency=2, tries=2, first_wait=0)


def video(level: int, frames: int = 17, height: int = 32, width: int = 48) -> Video:
    return Video(np.full((frames, height, width, 3), level, np.uint8), 8)


def grade(question) -> str:
    """The brighter, the more change; black gets no usable answer."""
    level = int(question.images[0].pixels().mean())
    return {0: "I cannot say", 60: 'Sure: {"reason": "x", "score": 2}', 120: '{"score": 5}'}.get(
        level, '{"score": 9}'
    )


def test_frames_are_those_of_the_benchmark():
    assert judge_frames(49) == [0, 6, 12, 18, 24, 30, 36, 48]
    assert judge_frames(8) == list(range(8))
    assert len(set(judge_frames(7))) < 8


def test_grades_are_averaged_and_what_failed_is_counted():
    videos = [video(60), video(0), video(120), video(60, frames=7), video(200)]
    score = mtscore(videos, Chat(Scripted(grade, "judge v1"), CONFIG))
    assert score.name == "mtscore_judge-v1"
    assert (score.value, score.videos) == (3.5, 2)
    assert score.settings["too_short"] == 1 and sum(score.settings["unanswered"].values()) == 2
    np.testing.assert_array_equal(np.isnan(score.each), [False, True, False, True, True])


def test_a_recorded_judge_is_replayed_offline(tmp_path):
    videos = [video(60), video(120), video(0)]
    file = tmp_path / "transcript.jsonl"
    live = mtscore(videos, Chat(Scripted(grade, "judge"), CONFIG, transcript=file))
    again = mtscore(videos, Chat(Replay(file), CONFIG))
    assert again.to_dict()["each"] == live.to_dict()["each"] and again.value == 3.5


def test_pictures_are_small_and_eight():
    question = question_about(video(60, height=480, width=720))
    assert [image.pixels().shape for image in question.images] == [(256, 384, 3)] * 8
    assert "integer from 1 to 5" in question.text


def test_without_a_judge_it_is_not_computed():
    assert "--judge-url" in mtscore([], None).why
    assert mtscore([video(0)], Chat(Scripted(grade), CONFIG)).value is None


@pytest.mark.parametrize("said", ['{"score": "4"}', '{"score": 4.5}', '{"score": true}', "[]", ""])
def test_only_whole_grades_count(said):
    assert mtscore([video(60)], Chat(Scripted(lambda question: said), CONFIG)).value is None
