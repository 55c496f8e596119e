"""Segments: laid end to end, each begun with the end of the one before, blended in pixels as published."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.errors import FrameError, InputError
from cogvideox.generation import GenerateOptions, Given, generate, plan_run
from cogvideox.generation.pipeline import Explicit, run
from cogvideox.generation.segments import VideoSegment, faded, laid_segments, segment_options
from cogvideox.video import Video
from support.models import golden_frames, golden_model, golden_text

OPTIONS = GenerateOptions(
    prompt="x", seed=42, steps=1, frames=30, window=17, window_schedule="segments", guidance=1.0
)


def made(model, given=None, options=OPTIONS):
    plan = plan_run(model.spec, options, given)
    return run(model, plan, given or Given(), explicit=Explicit(**golden_text()))


def test_segments_follow_each_other():
    assert laid_segments(49, 17, 9) == [
        VideoSegment(0, 0, 17, 0), *(VideoSegment(number, 8 * number, 8, 9) for number in range(1, 5)),
    ]  # fmt: skip
    assert laid_segments(20, 17, 4) == [VideoSegment(0, 0, 17, 0), VideoSegment(1, 13, 3, 4)]
    assert laid_segments(10, 17, 4) == [VideoSegment(0, 0, 10, 0)]


def test_the_fade_is_that_of_fun():
    """new i / 4 + old (1 - i / 4), i = 0..3."""
    old, new = np.full((4, 1, 1, 3), 100, np.uint8), np.full((4, 1, 1, 3), 200, np.uint8)
    assert faded(old, new)[:, 0, 0, 0].tolist() == [100, 125, 150, 175]


def test_each_segment_has_its_prompt_and_noise_of_its_own():
    options = OPTIONS.changed(prompt="0-2: a; 2-4: b", seconds=None)
    asked = [segment_options(options, segment, 8.0) for segment in laid_segments(32, 17, 4)]
    assert [each.prompt for each in asked] == ["a", "b", "b"][: len(asked)]
    assert [each.seed for each in asked] == [42, 43, 44][: len(asked)]
    assert all(each.window == 0 for each in asked)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "inpaint"])
def test_a_segment_begins_with_the_end_of_the_one_before(kind):
    model, shared = golden_model(kind), {"t2v": 9, "i2v": 1, "inpaint": 4}[kind]
    given = Given(image=golden_frames(1)[0]) if kind == "i2v" else None
    found = made(model, given)
    assert len(found.video) == 30 and found.record.windows.schedule == "segments"
    one = OPTIONS.changed(frames=17, window=0, window_schedule="auto")
    first = made(model, given, one).video.frames
    last, rest = first[-shared:], 30 - 17
    assert np.array_equal(found.video.frames[: 17 - shared], first[: 17 - shared])
    begun = {
        "t2v": Given(video=Video(last, 8.0)),
        "i2v": Given(image=last[-1]),
        "inpaint": Given(image=last[0], keyframes={1: last[1], 2: last[2], 3: last[3]})
        if shared == 4
        else None,
    }[kind]
    options = one.changed(seed=43)
    if kind == "t2v":
        second = made(
            model, begun, options.changed(video_use="continue", context_frames=9, frames=8)
        ).video.frames
        assert np.array_equal(made(model, given, OPTIONS.changed(frames=25)).video.frames[17:], second)
        return
    second = made(model, begun, options.changed(frames=shared + min(rest, 17 - shared))).video.frames
    assert np.array_equal(found.video.frames[17 - shared : 17], faded(last, second[:shared]))
    assert np.array_equal(found.video.frames[17 : 17 + len(second) - shared], second[shared:])


def test_one_segment_is_the_plain_run():
    plain = generate(
        golden_model(), OPTIONS.changed(frames=17, window=0, window_schedule="auto"), **golden_text()
    )
    found = generate(golden_model(), OPTIONS.changed(frames=17, window_schedule="auto"), **golden_text())
    assert np.array_equal(plain.frames, found.frames)


def test_the_record_is_of_the_whole():
    record = made(golden_model()).record
    run = record.manifest()["run"]
    assert run["frames"]["asked"] == 30 and "segments of 17 frames" in run["frames"]["why"]
    assert record.options.frames == 30 and record.seconds > 0 and set(record.stages) == {
        "text", "encode", "denoise", "decode",
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "given", "message"), [
    ("control", Given(control=Video(golden_frames(30), 8.0)), "a model of kind control"),
    ("t2v", Given(video=Video(golden_frames(30), 8.0)), "a video that is given"),
    ("i2v", Given(image=golden_frames(1)[0], last_image=golden_frames(1)[0]), "last_image and window_schedule"),
])  # fmt: skip
def test_what_is_read_whole_is_refused(kind, given, message):
    with pytest.raises(InputError, match=message):
        plan_run(golden_model(kind).spec, OPTIONS, given)


def test_a_segment_must_be_longer_than_what_it_shares():
    with pytest.raises(FrameError, match="window 9: no longer than the 9 frames that segments share"):
        plan_run(golden_model().spec, OPTIONS.changed(window=9))


def test_settings_of_windows_have_no_effect_on_segments():
    with pytest.warns(UserWarning, match="window_blend 'flat' has no effect with window_schedule 'segments'"):
        plan_run(golden_model().spec, OPTIONS.changed(window_blend="flat"))
