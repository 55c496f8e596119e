"""Short and long videos go VBench's two ways."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.evaluation.vbench import clip_mean, clips_of, dynamic_degree, is_long, scene
from cogvideox.perception.experts import RecordedExpert
from cogvideox.video import Video


def video(seconds: float, fps: float = 8.0) -> Video:
    count = round(seconds * fps)
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    return Video(np.ascontiguousarray(frames), fps, {"file": "a cat-0.mp4"})


@pytest.mark.parametrize("seconds", [2, 6, 10])
def test_the_papers_lengths_are_scored_whole(seconds):
    one = video(seconds)
    assert not is_long(one) and clips_of(one, "scene") == [one]


def test_a_long_video_is_cut_into_pieces_whose_last_ends_with_it():
    found = clips_of(video(11), "scene")  # 88 frames, 16 each: 5 whole ones, and the last 16 frames
    assert [len(piece) for piece in found] == [16] * 6
    assert [int(piece.frames[0, 0, 0, 0]) for piece in found] == [0, 16, 32, 48, 64, 72]
    assert found[1].manifest["file"] == "a cat-0_001.mp4"


def test_pieces_are_longer_where_the_network_was_trained_on_longer_clips():
    assert [len(piece) for piece in clips_of(video(12), "human_action")] == [80, 80]


def test_a_piece_weighs_as_every_other():
    assert clip_mean(video(12), "scene", lambda piece: float(piece.frames[0, 0, 0, 0] >= 48)) == 0.5


def test_rules_ask_about_pieces_of_long_videos_and_average_them():
    said = {f"a cat-0_{n:03d}.mp4": ["an alley" if n < 2 else "a street"] * 16 for n in range(6)}
    score = scene([video(12)], ["alley"], RecordedExpert("x", "captions", said))
    assert score.value == pytest.approx(2 / 6) and score.settings["long_videos"] == 1
    flows = {f"a cat-0_{n:03d}.mp4": [100.0 * (n < 3)] * 15 for n in range(6)}
    assert dynamic_degree([video(12)], RecordedExpert("x", "flow", flows)).value == 0.5
