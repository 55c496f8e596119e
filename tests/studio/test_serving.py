"""The job server as a process with the shipped model: OpenAI's client, events, uploads, cancelling, kills, stops."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
import cogvideox  # noqa: E402
from cogvideox.studio.worker import FULL_DISK  # noqa: E402
from cogvideox.video import read_video  # noqa: E402
from support.studio_client import SHORT, check_folder, final_transitions, studio  # noqa: E402

PROMPT = "a red circle moves to the right"
LONG = {"steps": 200, "frames": 17, "height": 64, "width": 64}
"""Settings of a video that takes longer than any of these tests waits for it."""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with studio(tmp_path_factory.mktemp("serving")) as client:
        yield client.ready()


@pytest.fixture(scope="module")
def done(client):
    """A completed video."""
    return client.until(client.create(seed=3), "completed")


def test_the_official_client_creates_polls_downloads_lists_remixes_and_deletes(client):
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none")
    with pytest.warns(
        DeprecationWarning
    ):  # OpenAI retires its own service; the client still speaks the protocol
        video = api.videos.create(
            prompt=PROMPT, size="32x32", extra_body={"cogvideox": {"steps": 2, "frames": 5}}
        )
        assert (video.status, video.size, video.seconds) == ("queued", "32x32", "0.625")
        video = api.videos.poll(video.id, poll_interval_ms=100)
        assert (video.status, video.progress, video.error) == ("completed", 100, None)
        data = api.videos.download_content(video.id).read()
        picture = api.videos.download_content(video.id, variant="thumbnail").read()
        sheet = api.videos.download_content(video.id, variant="spritesheet").read()
        remix = api.videos.remix(video.id, prompt="a blue square moves to the left")
        assert remix.remixed_from_video_id == video.id
        assert api.videos.poll(remix.id, poll_interval_ms=100).status == "completed"
        listed = [each.id for each in api.videos.list(limit=1)]
        assert listed[:2] == [remix.id, video.id]
        assert api.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            api.videos.retrieve(video.id)
        with pytest.raises(openai.BadRequestError, match="size: '1x1x1' is none"):
            api.videos.create(prompt=PROMPT, size="1x1x1")
    assert [each.id for each in api.models.list()] == ["tiny", "tiny-i2v"]
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("sora-2")
    assert data[4:8] == b"ftyp" and b"trainedAlgorithmicMedia" in data
    assert Image.open(io.BytesIO(picture)).format == "WEBP" and Image.open(io.BytesIO(sheet)).format == "JPEG"


def test_a_served_video_is_the_one_that_generate_makes(client, done, tmp_path):
    import cogvideox

    (tmp_path / "served.mp4").write_bytes(client.get(f"/v1/videos/{done['id']}/content").body)
    cogvideox.generate(cogvideox.load("tiny", device="cpu"), PROMPT, seed=3, **SHORT).save(
        tmp_path / "own.mp4"
    )
    assert np.array_equal(read_video(tmp_path / "served.mp4").frames, read_video(tmp_path / "own.mp4").frames)
    record = client.get(f"/v1/videos/{done['id']}/content?variant=settings").json()
    assert record["seed"] == 3 and record["config"]["prompt"] == PROMPT


def test_head_tells_the_size_of_a_file_without_it(client, done):
    whole = client.get(f"/v1/videos/{done['id']}/content")
    head = client.ask("HEAD", f"/v1/videos/{done['id']}/content")
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "content-type", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    assert client.ask("HEAD", "/v1/videos/none/content").status == 404


def test_ranges(client, done):
    path = f"/v1/videos/{done['id']}/content"
    whole = client.get(path).body
    some = client.get(path, range="bytes=10-19")
    assert (some.status, some.body, some.headers["content-range"]) == (
        206,
        whole[10:20],
        f"bytes 10-19/{len(whole)}",
    )
    assert client.get(path, range="bytes=-5").body == whole[-5:]
    assert client.get(path, range=f"bytes={len(whole)}-").status == 416
    assert client.get(f"{path}?download=true").headers["content-disposition"].startswith("attachment")


def test_events_tell_stages_and_pictures_until_the_end(client):
    name = client.create(steps=60, frames=9)
    line = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    line.request("GET", f"/v1/videos/{name}/events")
    answer = line.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    videos, pictures = [], 0
    for text in answer:
        if text.startswith(b"data: "):
            videos.append(json.loads(text[6:]))
            live = videos[-1]["cogvideox"]["live"]
            if live and live["preview"] and not pictures:
                shown = client.get(f"/v1/videos/{name}/preview")
                pictures += shown.status == 200 and shown.body.startswith(b"GIF")
    line.close()
    stages = [each["cogvideox"]["live"]["stage"] for each in videos if each["cogvideox"]["live"]]
    assert "denoise" in stages and pictures
    assert [each["status"] for each in videos][-1] == "completed"
    percents = [each["progress"] for each in videos]
    assert percents == sorted(percents)
    assert client.get(f"/v1/videos/{name}/preview").status == 404


def test_a_picture_that_cannot_be_written_is_no_end_of_its_video(client):
    """Such as on a disk that is full for a moment."""
    pictures = client.out / "previews"
    pictures.rename(client.out / "aside")
    pictures.write_bytes(b"")
    try:
        client.until(client.create(steps=12, frames=9), "completed")
    finally:
        pictures.unlink()
        (client.out / "aside").rename(pictures)


def test_a_video_that_finds_a_full_disk_waits_for_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with studio(disk, "--limit", "free_bytes=0") as client:
            client.ready()
            name = client.create(steps=60, frames=9)
            client.until(name, "running")
            with contextlib.suppress(OSError), (disk / "others").open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
            end = time.monotonic() + 60
            while (client.video(name)["cogvideox"]["live"] or {}).get("stage") != FULL_DISK:
                assert time.monotonic() < end, client.video(name)
                time.sleep(0.05)
            (disk / "others").unlink()
            client.until(name, "completed")
            assert len(read_video(client.out / "videos" / name / "video.mp4")) == 9
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_plan_tells_memory_and_time_before_anything_is_queued(client):
    before = len(client.get("/v1/videos?limit=100").json()["data"])
    plan = client.ask("POST", "/v1/plan", {"prompt": PROMPT, "cogvideox": {"frames": 17, "steps": 20}}).json()
    assert (plan["frames"], plan["height"], plan["steps"]) == (17, 64, 20)
    assert plan["memory"]["bytes"] > 10**7 and plan["estimated_seconds"] > 0 and plan["memory"]["why"]
    more = client.ask("POST", "/v1/plan", {"prompt": PROMPT, "cogvideox": {"frames": 33, "steps": 20}}).json()
    assert more["estimated_seconds"] > plan["estimated_seconds"]
    long = f"{PROMPT} and then " + "it moves to the left and " * 8
    encoder = cogvideox.load("tiny").text
    _, [tokens], [left_out] = encoder.tokenize([long])
    told = client.ask("POST", "/v1/plan", {"prompt": long}).json()["prompt"]
    assert told == {"tokens": tokens, "budget": encoder.max_tokens, "left_out": left_out} and left_out
    assert plan["prompt"]["left_out"] == ""
    unknown = client.ask("POST", "/v1/plan", {"prompt": "a zebra sings"}).json()
    assert any("zebra" in each for each in unknown["warnings"])
    refused = client.ask("POST", "/v1/plan", {"prompt": PROMPT, "size": "33x33"})
    assert refused.status == 400 and "multiple" in refused.error["message"]
    assert len(client.get("/v1/videos?limit=100").json()["data"]) == before


def form(name, content):
    body = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../../x"\r\n\r\n'.encode()
    return body + content + b"\r\n--b--\r\n", {"content_type": "multipart/form-data; boundary=b"}


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_an_uploaded_picture_is_kept_exactly_and_begins_a_video(client):
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[20:40, 20:40] = (200, 30, 30)
    body, headers = form("file", png(picture))
    upload = client.ask("POST", "/v1/inputs", body, **headers).json()
    assert (upload["ending"], upload["width"], upload["height"]) == ("png", 64, 64)
    kept = Image.open(io.BytesIO(client.get(f"/v1/inputs/{upload['id']}/content").body))
    assert np.array_equal(np.asarray(kept), picture)
    body = {"prompt": PROMPT, "cogvideox": {"steps": 2, "frames": 5, "inputs": {"image": upload["id"]}}}
    video = client.until(client.ask("POST", "/v1/videos", body).json()["id"], "completed", "failed")
    assert video["model"] == "tiny-i2v" and video["cogvideox"]["state"] == "completed", video["error"]


def test_a_video_of_ours_that_is_uploaded_tells_its_settings(client, done):
    body, headers = form("file", client.get(f"/v1/videos/{done['id']}/content").body)
    upload = client.ask("POST", "/v1/inputs", body, **headers).json()
    assert upload["settings"]["prompt"] == PROMPT and upload["settings"]["seed"] == 3
    assert (upload["frames"], upload["fps"]) == (5, 8)


def test_cancel_a_running_and_a_waiting_video(client):
    running, waiting = client.create(**LONG), client.create(**LONG)
    client.until(running, "running")
    assert client.video(waiting)["cogvideox"]["ahead"] == 0
    assert client.ask("POST", f"/v1/videos/{waiting}/cancel").json()["cogvideox"]["state"] == "cancelled"
    assert client.ask("DELETE", f"/v1/videos/{running}").status == 200
    assert client.get(f"/v1/videos/{running}").status == 404
    after = client.until(client.create(), "completed", seconds=30)
    assert after["status"] == "completed"
    shown = client.video(waiting)
    assert shown["status"] == "failed" and shown["error"]["code"] == "cancelled"


def test_delete_and_bring_back(client, done):
    name = client.until(client.create(seed=4), "completed")["id"]
    client.ask("DELETE", f"/v1/videos/{name}")
    assert client.get(f"/v1/videos/{name}/content").status == 404
    assert client.ask("POST", f"/v1/videos/{name}/restore").status == 200
    assert client.get(f"/v1/videos/{name}/content").status == 200
    client.ask("POST", f"/v1/videos/{name}/favourite")
    assert [each["id"] for each in client.get("/v1/videos?favourite=true").json()["data"]] == [name]


def test_no_prompt_and_no_key_stands_in_logs(client, done):
    texts = [client.server.log.read_text(), *(path.read_text() for path in (client.out / "logs").iterdir())]
    assert done["id"] in texts[0] and not any("red circle" in text or "zebra" in text for text in texts)
    assert (client.out.stat().st_mode & 0o77, client.out.joinpath("studio.sqlite").stat().st_mode & 0o77) == (
        0,
        0,
    )


def test_many_clients_and_half_open_connections_stop_nobody(client):
    """benchmarks/studio_load.py has hundreds of each."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "studio_load.py"
    counts = ["--pollers", "40", "--uploaders", "3", "--half-open", "200", "--seconds", "4"]
    command = [sys.executable, str(script), "--port", str(client.port), *counts]
    figures = json.loads(
        subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    )
    assert figures["5xx"] == 0 and figures["requests"] > 40
    assert set(figures["codes"]) == {"status 200", "upload 200"}
    assert "Traceback" not in client.server.log.read_text()


def test_a_worker_and_a_server_are_killed_and_a_clean_stop_puts_back(tmp_path):
    """A video that kills its worker is given up; after kill -9 of the server all goes on where it was."""
    with studio(tmp_path, "--limit", "deaths=1") as client:
        client.ready()
        poison, first = client.create(**LONG), client.create(seed=1)
        client.until(poison, "running")
        client.kill_worker()
        failed = client.until(poison, "failed")
        assert failed["error"]["code"] == "worker_died" and "SIGKILL" in failed["error"]["message"]
        client.until(first, "completed", seconds=120)
        running, waiting = client.create(steps=30), client.create(seed=2)
        client.until(running, "running")
        workers = client.workers()
        client.server.process.kill()
        client.server.process.wait()
    with studio(tmp_path, "--limit", "stop_seconds=0") as client:
        assert not any(map(client.lives, workers)), "a worker outlived its server"
        assert client.video(first)["status"] == "completed"
        client.until(running, "completed", seconds=120)
        client.until(waiting, "completed")
        put_back = client.create(**LONG)
        client.until(put_back, "running")
        client.server.process.send_signal(signal.SIGTERM)
        assert client.server.process.wait(30) == 143
    with studio(tmp_path) as client:
        assert client.video(put_back)["cogvideox"]["state"] in ("queued", "running")
        client.ask("POST", f"/v1/videos/{put_back}/cancel")
        client.until(put_back, "cancelled")
    assert {len(each) for each in final_transitions(client.out / "studio.sqlite").values()} == {1}
    assert check_folder(client.out) == {
        poison: "failed",
        first: "completed",
        running: "completed",
        waiting: "completed",
        put_back: "cancelled",
    }


def test_a_prompt_is_written_out_on_request(client):
    written = client.ask("POST", "/v1/enhance", {"prompt": "red ball rolls rightwards"}).json()
    assert written == {"prompt": "a red circle moves to the right", "by": "world rules/1"}
    assert client.ask("POST", "/v1/enhance", {"prompt": " "}).error["message"].startswith("prompt: empty")
    assert client.ask("POST", "/v1/enhance", {"prompt": "x", "model": "y"}).status == 404
    body, headers = form("file", png(np.zeros((8, 8, 3), np.uint8)))
    assert client.ask("POST", "/v1/enhance", body, **headers).status == 400
    assert not [*(client.out / "incoming").iterdir()]
