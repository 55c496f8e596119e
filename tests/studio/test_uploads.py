"""Uploads are decoded in confined processes: hostile ones are refused by name, and nothing of them stays."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.errors import MediaError, OutputError  # noqa: E402
from cogvideox.studio.decode_upload import made_with  # noqa: E402
from cogvideox.studio.uploads import Uploads  # noqa: E402
from cogvideox.video import Video, read_video  # noqa: E402
from support.studio_app import idle_studio  # noqa: E402

LIMITS = {
    "decoders": 1,
    "image_pixels": 250_000,
    "video_frames": 40,
    "video_bytes": 300_000,
    "image_bytes": 200_000,
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with idle_studio(tmp_path_factory.mktemp("uploads"), limits=LIMITS) as client:
        yield client.studio


def upload(studio, data: bytes):
    receiving = studio.uploads.receive()
    try:
        receiving.write(data)
        incoming = receiving.done()
    except MediaError:
        receiving.give_up()
        raise
    return studio.uploads.keep(incoming, "ann").result(60)


def mp4(tmp_path, frames=5, size=32, fps=8.0):
    rng = np.random.default_rng(0)
    path = Video(rng.integers(0, 255, (frames, size, size, 3), np.uint8), fps).save(tmp_path / "x.mp4")
    return path.read_bytes()


def picture(kind="PNG", size=(20, 30), **more):
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(stream, kind, **more)
    return stream.getvalue()


def bomb():
    """A PNG of 20,000 x 20,000 pixels in a few bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def hostile(tmp_path):
    video, image = mp4(tmp_path), picture()
    yield "text", b"hello"
    yield "html", b"<script>alert(1)</script>"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "playlist", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "list of files", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n"
    yield "bomb", bomb()
    yield "too many pixels", picture(size=(600, 600))
    yield "too many frames", mp4(tmp_path / "long", frames=50)
    yield "pickle", b"\x80\x04\x95" + b"x" * 100
    yield "zip", b"PK\x03\x04" + b"x" * 100
    yield "zeros", bytes(5000)
    for share in (0.1, 0.3, 0.6):
        yield f"cut video {share}", video[: int(share * len(video))]
        yield f"cut picture {share}", image[: int(share * len(image))]
    rng = np.random.default_rng(1)
    for number in range(10):
        broken = bytearray(video)
        for at in rng.integers(0, 400, 40):
            broken[at] = rng.integers(256)
        yield f"mutant {number}", bytes(broken)


def test_hostile_files_are_refused_by_name_and_leave_nothing(studio, tmp_path):
    refused = 0
    for name, data in hostile(tmp_path):
        try:
            upload(studio, data)
        except MediaError as error:
            refused += 1
            text = str(error)
            assert text.startswith("upload: ") and text.isprintable() and len(text) < 600, name
            assert str(studio.folder.root) not in text, text
        else:
            assert name.startswith("mutant"), f"{name} was taken"
    assert refused > 20
    assert list((studio.folder.root / "incoming").iterdir()) == []
    kept = {path.stem for path in (studio.folder.root / "inputs").iterdir()}
    assert kept == {each["id"] for each in studio.queue.read("SELECT id FROM inputs")}
    assert upload(studio, picture())["ending"] == "png", "the next one is taken as ever"


def test_what_is_no_picture_and_no_video_is_told_what_could_be_sent(studio):
    with pytest.raises(MediaError, match=r"^upload: neither a picture nor a video; give \.png, .*\.mp4"):
        upload(studio, b"a shopping list")
    with pytest.raises(MediaError, match="HEIC or AVIF picture.*JPEG"):
        upload(studio, b"\0\0\0\x18ftypheic" + bytes(100))


def test_too_many_bytes_are_refused_as_they_come(studio):
    receiving = studio.uploads.receive()
    with pytest.raises(MediaError, match="more than 300,000 bytes"):
        for _ in range(10):
            receiving.write(bytes(50_000))
    receiving.give_up()
    with pytest.raises(MediaError, match="is empty"):
        studio.uploads.receive().done()
    assert list((studio.folder.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pictures_are_kept_as_they_are_read(studio, kind):
    facts = upload(studio, picture(kind))
    assert (facts["width"], facts["height"]) == (30, 20)
    assert np.asarray(Image.open(studio.folder.input(facts["id"], "png"))).shape == (20, 30, 3)


def test_a_video_is_kept_without_loss(studio, tmp_path):
    data = mp4(tmp_path, frames=9, fps=12.5)
    facts = upload(studio, data)
    before, after = read_video(tmp_path / "x.mp4"), read_video(studio.folder.input(facts["id"], "mkv"))
    assert np.array_equal(before.frames, after.frames) and before.fps == after.fps == facts["fps"]


def test_a_decoder_that_dies_costs_one_upload(studio, monkeypatch):
    upload(studio, picture())
    [pool] = studio.uploads._pools
    pool.workers[0].link.process.kill()
    with pytest.raises(MediaError, match="could not be decoded .*SIGKILL"):
        upload(studio, picture())
    assert upload(studio, picture())["width"] == 30


def test_old_uploads_go_unless_a_waiting_video_needs_them(studio):
    used, unused = upload(studio, picture())["id"], upload(studio, picture())["id"]
    from cogvideox.studio.queue import NewVideo

    studio.queue.add(NewVideo("ann", {"settings": {"prompt": "x"}, "inputs": {"image": used}}))
    studio.uploads.remove_old(studio.queue.clock() + 1)
    assert studio.folder.input(used, "png").exists() and not studio.folder.input(unused, "png").exists()
    assert studio.queue.input("ann", unused) is None and studio.queue.input("ben", used) is None
    assert isinstance(studio.uploads, Uploads)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_videos_one_after_the_other_leave_no_threads_behind(studio, tmp_path):
    data = mp4(tmp_path)
    assert upload(studio, data)["frames"] == 5
    [pool] = studio.uploads._pools
    for _ in range(6):
        upload(studio, data)
    upload(studio, picture())  # answered after what the last video held has gone
    status = Path(f"/proc/{pool.workers[0].link.process.pid}/status").read_text(encoding="ascii")
    threads = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads"))
    assert threads == 1, "each would hold its stack until the process is refused memory"


TAGS = {
    "half a character": ({"config": {"prompt": "\ud800"}}, set()),
    "half a name": ({"model": {"name": "\udfff"}}, set()),
    "a megabyte": ({"config": {"prompt": "x" * 900_000}, "model": {"name": "5b"}}, {"model"}),
    "other kinds": ({"config": ["x"], "model": {"name": 5}}, set()),
    "ours": ({"config": {"prompt": "a ball"}, "model": {"name": "5b"}}, {"settings", "model"}),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_that_no_answer_can_hold_are_left_out(name):
    manifest, told = TAGS[name]
    facts = made_with(json.loads(json.dumps(manifest)))
    assert set(facts) == told
    json.dumps(facts, ensure_ascii=False).encode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_disk_that_is_full_at_the_last_byte_is_said_and_nothing_stays(studio):
    receiving = studio.uploads.receive()
    receiving._stream.close()
    receiving._stream = open("/dev/full", "wb")  # noqa: SIM115  closed by done
    receiving.write(picture())  # less than is written at a time
    with pytest.raises(OutputError, match="cannot be written .*free some space"):
        receiving.done()
    assert list((studio.folder.root / "incoming").iterdir()) == []
