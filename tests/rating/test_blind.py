"""Raters cannot tell models apart: nothing a page can learn depends on the model."""

from __future__ import annotations

import http.client
import json
import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

pytest.importorskip("uvicorn")
from cogvideox.rating.anonymize import common_fps, common_shape, fitted, write_anonymized  # noqa: E402
from cogvideox.rating.study import Study, make_study  # noqa: E402
from cogvideox.video import Video, read_video  # noqa: E402
from support.serving_process import serving, videos  # noqa: E402

OLD, NEW = 1_000_000_000, 1_700_000_000


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two models as unlike as can be: containers, dates, lengths, rates, sizes, how hard they are to code."""
    root = tmp_path_factory.mktemp("blind")
    a = videos(root / "a", 3, frames=9, size=32, fps=8, seed=1)
    b = root / "b"
    for place in range(3):
        flat = np.full((33, 96, 160, 3), 40 * place, np.uint8)
        Video(flat, 16, {"config": {"prompt": "flat", "model": "b"}}).save(b / f"{place}.mkv")
    for folder, when in ((a, OLD), (b, NEW)):
        for path in folder.iterdir():
            os.utime(path, (when, when))
    out = root / "study"
    with serving(root, f"a={a}", f"b={b}", "--out", str(out), "--mode", "pairs") as server:
        yield Study.read(out), out, server


def learn(port, path, method="GET", **headers):
    """Everything an answer says: status, headers in their order, body."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.request(method, path, headers=headers)
    answer = line.getresponse()
    found = answer.status, [(k, v) for k, v in answer.getheaders() if k != "date"], answer.read()
    line.close()
    return found


def boxes(data, start=0, end=None):
    """(kind, size) of every box of an mp4, those inside others too."""
    end, found = len(data) if end is None else end, []
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        assert size >= 8
        found.append((kind, data[start + 8 : start + size]))
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"udta"):
            found += boxes(data, start + 8, start + size)
        start += size
    return found


def pairs(study):
    return [unit.media for unit in study.units]


def test_headers_of_every_kind_of_request_are_those_of_the_other_model(study):
    made, _, server = study
    for left, right in pairs(made):
        for method, headers in (
            ("GET", {}),
            ("HEAD", {}),
            ("GET", {"range": "bytes=0-99"}),
            ("GET", {"range": "bytes=-5"}),
            ("GET", {"range": "bytes=0-1,5-9"}),
            ("GET", {"range": "bytes=999999999-"}),
            ("GET", {"if-modified-since": "Sat, 01 Jan 2022 00:00:00 GMT"}),
            ("GET", {"range": "bytes=0-9", "if-range": "Thu, 01 Jan 1970 00:00:00 GMT"}),
            ("GET", {"range": "bytes=0-9", "if-range": "Sun, 09 Sep 2001 01:46:40 GMT"}),
            ("GET", {"if-none-match": "*"}),
            ("POST", {"content-type": "application/json"}),
        ):
            answers = [learn(server.port, f"/media/{name}.mp4", method, **headers) for name in (left, right)]
            shown = [
                (status, [(k, "" if "multipart" in v else v) for k, v in said]) for status, said, _ in answers
            ]
            assert shown[0] == shown[1]
            names = {key.lower() for key, _ in shown[0][1]}
            assert not names & {"last-modified", "etag", "server"}
            assert len(answers[0][2]) == len(answers[1][2])  # sizes, and so their order, say nothing


def test_containers_and_streams_are_alike(study):
    made, _, server = study
    for media in pairs(made):
        bodies = [learn(server.port, f"/media/{name}.mp4")[2] for name in media]
        kinds = [[kind for kind, _ in boxes(body)] for body in bodies]
        assert kinds[0] == kinds[1]
        for kind in (b"ftyp", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"meta", b"elst"):
            said = [[body for name, body in boxes(data) if name == kind] for data in bodies]
            assert said[0] == said[1], kind
        settings = [data[data.index(b"x264 - core") :].partition(b"\0")[0] for data in bodies]
        assert settings[0] == settings[1]


def test_streams_have_one_rate_length_and_size_and_no_names(study, tmp_path):
    made, out, _ = study
    for media in pairs(made):
        facts = []
        for name in media:
            with av.open(str(out / "media" / f"{name}.mp4")) as file:
                stream = file.streams.video[0]
                size = stream.codec_context.width, stream.codec_context.height
                tags = dict(file.metadata), dict(stream.metadata)
                facts.append(
                    (file.duration, stream.average_rate, stream.frames, size, stream.time_base, tags)
                )
        assert facts[0] == facts[1]
        assert facts[0][1:3] == (16, 18)  # the shorter one's 9 / 8 s at the faster one's rate
    text = b"".join(path.read_bytes() for path in (out / "media").iterdir())
    for word in (b"flat", b"config", b"model", b"trainedAlgorithmicMedia"):
        assert word not in text


def test_dates_sizes_and_names_of_the_files_say_nothing(study):
    made, out, _ = study
    files = list((out / "media").iterdir())
    assert len({path.stat().st_mtime for path in files}) == 1
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    for media in pairs(made):
        assert len({(out / "media" / f"{name}.mp4").stat().st_size for name in media}) == 1


def test_neither_side_nor_order_of_names_follows_the_model(tmp_path):
    a, b = videos(tmp_path / "a", 12, frames=1), videos(tmp_path / "b", 12, frames=1, seed=1)
    made = make_study({"a": a, "b": b}, tmp_path / "study", "pairs")
    first = sum(unit.media[0] < unit.media[1] for unit in made.units)
    left = sum(made.media_for(made.rater("ann"), unit)[0] == unit.media[0] for unit in made.units)
    assert 0 < first < 12 and 0 < left < 12


def test_what_was_changed_is_said_and_kept(study):
    made, out, server = study
    assert "b/0: shown for its first 1.12 of 2.06 s" in made.remarks[0] + made.remarks[-1] + str(made.remarks)
    assert "note: b/0: shown for its first" in server.log.read_text()
    assert json.loads((out / "study.json").read_text())["remarks"] == list(made.remarks)


def test_prompts_that_give_a_model_away_are_said(tmp_path):
    a, b = videos(tmp_path / "a", 3, frames=1), videos(tmp_path / "b", 2, frames=1)
    made = make_study({"a": a, "b": b}, tmp_path / "study")
    assert any("a: 1 videos of which no other model has one" in remark for remark in made.remarks)


def test_rates_that_differ_meet_where_each_keeps_its_timing():
    assert common_fps([8, 8]) == 8 and common_fps([8, 16]) == 16 and common_fps([8, 12]) == 24
    assert common_fps([24000 / 1001, 24000 / 1001]) == Fraction(24000, 1001)
    assert common_fps([30000 / 1001, 8]) == Fraction(30000, 1001)  # no common one below 120: the highest


def test_videos_are_held_and_enlarged_not_blurred_where_that_can_be():
    small = Video(np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 120, 160, 3), np.uint8), 8)
    large = Video(np.zeros((8, 240, 320, 3), np.uint8), 16)
    shape = common_shape([small, large], Fraction(16))
    assert (shape.frames, shape.height, shape.width) == (8, 240, 320)
    assert [int(fitted(small, place, shape)[0, 0, 0]) for place in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    tall = Video(np.full((4, 320, 240, 3), 255, np.uint8), 8)
    shape = common_shape([tall, large], Fraction(16))
    assert fitted(tall, 0, shape)[:, 0].max() == 0 and fitted(tall, 0, shape)[:, shape.width // 2].min() > 250


def test_equal_videos_are_shown_as_they_are(tmp_path):
    made = [Video(np.full((9, 240, 320, 3), level, np.uint8), 8) for level in (50, 200)]
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert write_anonymized(made, paths, Fraction(8)) == ["", ""]
    for video, path in zip(made, paths, strict=True):
        back = read_video(path)
        assert (len(back), back.fps, back.frames.shape) == (9, 8, video.frames.shape)
        assert abs(back.frames.astype(int) - video.frames).max() <= 3
