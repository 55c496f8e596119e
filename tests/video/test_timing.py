"""A frame is on the screen until its end: counts are exact in every container, at every rate and length."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cogvideox.video import Video, probe, read_video, survey
from cogvideox.video.timing import fit, nearest_in_time
from support.tiny_videos import CONTAINERS, LENGTHS, RATES, expected, is_each_frame, levels, write_tiny

HALF = [
    (container, rate, LENGTHS[(3 * number + 5 * place) % len(LENGTHS)])
    for number, container in enumerate(CONTAINERS)
    for place, rate in enumerate(RATES)
]


@pytest.mark.parametrize("container, rate, count", HALF)
def test_a_clip_at_its_own_rate_is_exactly_its_frames_and_at_others_counts_to_its_end(
    tmp_path, container, rate, count
):
    """A part of the table containers x rates x lengths; ``benchmarks/containers.py`` walks all of it."""
    path = write_tiny(tmp_path / f"v.{container}", count, RATES[rate], CONTAINERS[container])
    assert is_each_frame(read_video(path).frames, count)
    assert probe(path).frames == count
    off = (
        1 if container == "gif" else 0
    )  # its clock ticks in hundredths: the end of a short clip is not known better
    for asked in (8, 16):
        assert abs(len(read_video(path, fps=asked)) - expected(count, RATES[rate], Fraction(asked))) <= off


@pytest.mark.parametrize("container", ["mkv", "webm", "ffv1.mkv", "mp4", "ts"])
def test_17_frames_at_30_are_17_wherever_they_lie(tmp_path, container):
    path = write_tiny(tmp_path / f"v.{container}", 17, Fraction(30), CONTAINERS[container])
    assert (len(read_video(path)), probe(path).frames, probe(path).fps) == (17, 17, 30)


def test_our_own_lossless_file_keeps_its_last_frame(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (17, 16, 16, 3), dtype=np.uint8)
    back = read_video(Video(frames, 30.0).save(tmp_path / "v.mkv"))
    assert back.fps == 30 and (back.frames == frames).all()


@pytest.mark.parametrize(
    "count, rate, frames", [(49, "8.02", 49), (48, "24", 16), (49, "24", 17), (81, "16", 41)]
)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sampling_at_8_keeps_what_is_on_the_screen_at_each_eighth(tmp_path, container, count, rate, frames):
    path = write_tiny(tmp_path / f"v.{container}", count, RATES[rate], "libx264")
    assert len(read_video(path, fps=8)) == frames


def test_the_same_clip_gives_the_same_frames_from_every_container(tmp_path):
    for rate, asked in (("24", 16), ("29.97", 8), ("60", 24)):
        made = {
            container: read_video(write_tiny(tmp_path / f"v.{container}", 33, RATES[rate], codec), fps=asked)
            for container, codec in CONTAINERS.items()
            if container not in ("gif", "ffv1.mkv")
        }
        seen = {
            name: ((video.frames.mean(axis=(1, 2, 3)) - 20) / 40).round().tolist()
            for name, video in made.items()
        }
        assert len({str(levels) for levels in seen.values()}) == 1, seen


@pytest.mark.parametrize("start", [Fraction(7200), Fraction(2**33 - 30000, 90000)])
def test_a_transport_stream_may_begin_anywhere_and_wrap_on_its_way(tmp_path, start):
    times = [start + Fraction(n, 30) for n in range(17)]
    path = write_tiny(tmp_path / "v.ts", 17, Fraction(30), "libx264", times, options={"mpegts_copyts": "1"})
    with av.open(str(path)) as container:
        assert (
            container.start_time > 7e9 or container.start_time < 0
        )  # it wraps: the demuxer counts back from there
    assert is_each_frame(read_video(path).frames, 17) and probe(path).fps == 30


def test_a_variable_rate_is_the_average_and_every_frame_counts(tmp_path):
    """Ten frames in a second, then one that is held for a second and one more."""
    times = [Fraction(n, 10) for n in range(10)] + [Fraction(2)]
    for container in ("mkv", "mp4", "webm"):
        path = write_tiny(tmp_path / f"v.{container}", 11, Fraction(10), CONTAINERS[container], times)
        header, timing = survey(path)
        assert not header.steady and header.frames == 11
        assert timing.seconds == pytest.approx(2.1, abs=0.002), container
        assert len(read_video(path)) == 11
        assert len(read_video(path, fps=10)) == 21
        shown = read_video(path, fps=5).frames.mean(axis=(1, 2, 3))
        assert np.abs(shown - levels(11)[[0, 2, 4, 6, 8, 9, 9, 9, 10, 10, 10]]).max() < 18, container


def test_timestamps_that_jitter_less_than_a_quarter_frame_name_their_frames(tmp_path):
    random = np.random.default_rng(1)
    times = [Fraction(n, 30) + Fraction(int(random.integers(0, 12)), 1000) for n in range(33)]
    path = write_tiny(tmp_path / "phone.mp4", 33, Fraction(30), "libx264", times)
    assert probe(path).steady and is_each_frame(read_video(path).frames, 33)


def test_an_edit_list_shows_what_it_shows(tmp_path):
    """The same file with an edit that begins at the fifth frame: five frames of nine, no more."""
    path = write_tiny(tmp_path / "v.mp4", 9, Fraction(8), "mpeg4")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 8  # version, flags and number of entries lie before it
    duration, media_time = struct.unpack_from(">Ii", data, place + 4)
    assert duration == 1125 and media_time == 0
    struct.pack_into(">Ii", data, place + 4, 625, 4 * 2048)
    path.write_bytes(data)
    video = read_video(path)
    assert len(video) == probe(path).frames == 5
    assert np.abs(video.frames.mean(axis=(1, 2, 3)) - levels(9)[4:]).max() < 18


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_one_frame_is_one_frame(tmp_path, container):
    path = write_tiny(tmp_path / f"v.{container}", 1, Fraction(8), CONTAINERS[container])
    assert len(read_video(path)) == len(read_video(path, fps=8)) == probe(path).frames == 1
    assert len(read_video(path, fps=24)) == 3


def test_a_gif_holds_its_frames_as_long_as_it_says(tmp_path):
    video = Video(np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels(9)]), 12.0)
    header = probe(video.save(tmp_path / "v.gif"))
    assert header.frames == 9 and header.fps == pytest.approx(12.5)  # 8 hundredths a frame
    assert len(read_video(tmp_path / "v.gif", fps=25)) == 18


@pytest.mark.parametrize("last, frames", [(0, 9), (10, 9), (5, 9), (100, 18)])
def test_only_a_last_frame_that_is_held_longer_changes_the_length(last, frames):
    timing = fit(range(0, 90, 10), Fraction(1, 100), last=last)
    assert timing.steady == (last < 15) and timing.count(10) == frames
    seen = list(nearest_in_time(((n / 10, n) for n in range(9)), 10.0, timing))
    assert seen == [*range(9), *[8] * (frames - 9)]


def test_a_long_take_of_30_or_29_97_is_told_apart_on_a_clock_of_milliseconds():
    for rate in (Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(401, 50), Fraction(50)):
        ticks = [round(n * 1000 / rate) for n in range(900)]
        timing = fit(ticks, Fraction(1, 1000))
        assert timing.steady and timing.count(float(rate)) == 900
        assert timing.fps == pytest.approx(float(rate), rel=1e-5)


def test_missing_timestamps_are_numbered(tmp_path):
    """An AVI of H.264 with B-frames counts its frames as they are stored: they are shown in the decoder's order."""
    path = write_tiny(tmp_path / "v.avi", 17, Fraction(24), "libx264")
    assert is_each_frame(read_video(path).frames, 17) and len(read_video(path, fps=8)) == 6


def test_a_frame_that_an_avi_leaves_out_is_time_all_the_same(tmp_path):
    """Frames 0 to 8 and 17 to 24 of 25: the one before the gap stays on the screen."""
    numbers = [*range(9), *range(17, 25)]
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for number, level in zip(numbers, levels(len(numbers)), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    header, timing = survey(tmp_path / "v.avi")
    assert (header.frames, header.steady, timing.seconds) == (17, False, 1.0)
    assert len(read_video(tmp_path / "v.avi")) == 17 and len(read_video(tmp_path / "v.avi", fps=25)) == 25


def test_both_files_of_the_issue_are_seen_by_the_same_rule(tmp_path: Path):
    """Equal clips in two containers pair: evaluation compares frames one by one."""
    one = write_tiny(tmp_path / "a.mp4", 17, Fraction(30), "libx264")
    two = write_tiny(tmp_path / "a.mkv", 17, Fraction(30), "libx264")
    assert read_video(one).frames.shape == read_video(two).frames.shape
    assert read_video(one).fps == read_video(two).fps
