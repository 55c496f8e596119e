"""What is made of a finished video when somebody asks: its frames exactly, an animation within bounds."""

from __future__ import annotations

import asyncio
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.errors import MediaError  # noqa: E402
from cogvideox.studio import exports, variants  # noqa: E402
from cogvideox.studio.api_errors import ApiError  # noqa: E402
from cogvideox.studio.variants import export  # noqa: E402
from cogvideox.video import Video, read_video  # noqa: E402
from support.studio_app import idle_studio  # noqa: E402


def write(path, frames=7, height=32, width=48, fps=8.0):
    values = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), np.uint8)
    return Video(values, fps).save(path)


def test_frames_are_those_of_the_video(tmp_path):
    source = write(tmp_path / "x.mp4")
    export(source, tmp_path / "x.zip", "frames", 60)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        names = archive.namelist()
        pictures = [Image.open(archive.open(each)) for each in names]
        assert names == [f"frame_{number:04d}.png" for number in range(1, 8)]
        assert "trainedAlgorithmicMedia" in pictures[0].text["digitalSourceType"]
        assert np.array_equal(np.stack([np.asarray(each) for each in pictures]), read_video(source).frames)


def test_the_first_frame_of_an_upload(tmp_path):
    source = write(tmp_path / "x.mkv")
    export(source, tmp_path / "x", "frame", 60)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x")), read_video(source).frames[0])
    with idle_studio(tmp_path) as client:
        answer = client.post("/v1/inputs", files={"file": source.read_bytes()})
        sent = client.get(f"/v1/inputs/{answer.json()['id']}/content?variant=frame")
        assert sent.headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent.content))), read_video(source).frames[0])
        assert not [*(client.studio.folder.root / "incoming").iterdir()]


@pytest.mark.parametrize(("frames", "kept"), [(7, 7), (10, 10), (11, 6), (25, 7)])
def test_an_animation_lasts_as_long_and_leaves_frames_out_beyond_its_bound(
    tmp_path, monkeypatch, frames, kept
):
    monkeypatch.setattr(variants, "ANIMATION_FRAMES", 10)
    export(write(tmp_path / "x.mp4", frames, fps=10.0), tmp_path / "x.gif", "gif", 60)
    with Image.open(tmp_path / "x.gif") as animation:
        durations = []
        for number in range(animation.n_frames):
            animation.seek(number)
            durations.append(animation.info["duration"])
    assert len(durations) == kept
    assert abs(sum(durations) - 100 * frames) <= max(durations)


def test_an_animation_is_scaled_down(tmp_path):
    export(write(tmp_path / "x.mp4", 2, 64, 960), tmp_path / "x.gif", "gif", 60)
    with Image.open(tmp_path / "x.gif") as animation:
        assert (
            max(animation.size) <= 3 * variants.ANIMATION_SIDE and animation.size[0] == 15 * animation.size[1]
        )


def test_a_damaged_file_is_refused_and_nothing_stays(tmp_path):
    with idle_studio(tmp_path / "studio") as client:
        studio = client.studio
        damaged = tmp_path / "x.mp4"
        damaged.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
        with pytest.raises(MediaError, match="gif: "):
            asyncio.run(studio.exports.answer(damaged, "gif", "x"))
        assert not [*(tmp_path / "studio" / "incoming").iterdir()] and not studio.exports.there


def test_only_so_many_are_there_at_a_time_and_each_goes_when_it_was_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "MOST", 1)
    source = write(tmp_path / "x.mp4")
    with idle_studio(tmp_path / "studio") as client:
        studio = client.studio

        async def ask():
            answer = await studio.exports.answer(source, "gif", "x")
            with pytest.raises(ApiError, match="the most"):
                await studio.exports.answer(source, "gif", "x")
            sent = []

            async def send(message):
                sent.append(message)

            async def receive():
                await asyncio.Event().wait()  # the client says nothing more

            await answer({"type": "http", "method": "GET", "headers": []}, receive, send)
            return b"".join(each.get("body", b"") for each in sent)

        assert asyncio.run(ask()).startswith(b"GIF89a")
        assert not [*(tmp_path / "studio" / "incoming").iterdir()] and not studio.exports.there
