"""What comes at the same moment, too late, or twice: quotas, keys, deleted sources, files of refused requests."""

from __future__ import annotations

import http.client
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.errors import InputError  # noqa: E402
from cogvideox.studio.keys import create_key, revoke_key  # noqa: E402
from cogvideox.studio.limits import StudioLimits  # noqa: E402
from cogvideox.studio.request import check_planned  # noqa: E402
from support.hostile_runs import in_json, send  # noqa: E402
from support.studio_app import idle_studio, served_studio  # noqa: E402

BODY = {"prompt": "a ball", "cogvideox": {"steps": 2}}


@pytest.fixture
def client(tmp_path):
    with idle_studio(tmp_path / "studio", limits={"decoders": 1, "inputs_for_one": 2}) as client:
        yield client


def completed(client, **settings):
    """A video that is done, as a worker leaves it."""
    name = client.post("/v1/videos", json={"prompt": "a ball", "cogvideox": settings}).json()["id"]
    queue, folder = client.studio.queue, client.studio.folder.video(name)
    while queue.get(name).state == "queued":
        queue.take()
    folder.mkdir()
    (folder / "video.mp4").write_bytes(b"x" * 100)
    (folder / "facts.json").write_text("{}", encoding="ascii")
    queue.end(name, "completed", result={"seed": 1}, size=100)
    return name


def png():
    stream = io.BytesIO()
    Image.new("RGB", (20, 30)).save(stream, "PNG")
    return stream.getvalue()


def test_a_quota_holds_for_requests_that_come_at_the_same_moment(tmp_path):
    with served_studio(tmp_path / "studio", limits={"queued_for_one": 3}) as client:
        ready = threading.Barrier(12)

        def ask(number):
            ready.wait()
            return send(client.port, in_json("create", "/v1/videos", prompt=f"ball {number}")).status

        with ThreadPoolExecutor(12) as threads:
            codes = sorted(threads.map(ask, range(12)))
        assert codes == [200] * 3 + [429] * 9 and client.studio.queue.waiting() == 3


def test_the_same_request_is_answered_when_the_queue_is_full(tmp_path):
    with idle_studio(tmp_path, limits={"queued_for_one": 1}) as client:
        first, again = (
            client.post("/v1/videos", json=BODY, headers={"Idempotency-Key": "k"}) for _ in range(2)
        )
        assert first.json()["id"] == again.json()["id"]
        assert client.post("/v1/videos", json=BODY).status_code == 429


def test_a_revoked_key_is_told_nothing_more_by_a_stream_that_is_open(tmp_path):
    with served_studio(tmp_path / "studio", local=False, hosts=("127.0.0.1",)) as client:
        studio = client.studio
        key = create_key(studio.queue, "ann", 3, 10**9)
        headers = {"Authorization": f"Bearer {key}"}
        lines = [http.client.HTTPConnection("127.0.0.1", client.port, timeout=20) for _ in range(2)]
        lines[0].request(
            "POST", "/v1/videos", '{"prompt": "one"}', {**headers, "Content-Type": "application/json"}
        )
        name = json.loads(lines[0].getresponse().read())["id"]
        lines[1].request("GET", "/v1/events", headers=headers)
        stream = lines[1].getresponse()
        assert stream.readline() == b"event: video\n"
        revoke_key(studio.queue, "ann")
        studio.queue.set_favourite(name, True)
        studio.board.touch(name)
        rest = stream.read()  # to its end, which comes now
        assert b'"favourite": true' not in rest
        for line in lines:
            line.close()


def test_a_deleted_video_is_no_source_but_stays_for_those_that_wait_for_it(client):
    name, queue = completed(client), client.studio.queue
    waiting = client.post(f"/v1/videos/{name}/remix", json={"prompt": "a cube"}).json()["id"]
    assert client.delete(f"/v1/videos/{name}").status_code == 200
    body = {"prompt": "x", "cogvideox": {"inputs": {"video": name}}}
    assert client.post("/v1/videos", json=body).status_code == 400
    assert client.post(f"/v1/videos/{name}/remix", json={"prompt": "a cube"}).status_code == 404
    later = queue.clock() + 10
    assert queue.to_purge(later) == []
    queue.cancel(waiting)
    assert queue.to_purge(later) == [name]
    assert queue.purge(name) and client.post(f"/v1/videos/{name}/restore").status_code == 404


def test_what_a_deleted_video_was_asked_to_show_is_forgotten_and_its_key_makes_no_second_one(client):
    body, headers = {"prompt": "a secret ball"}, {"Idempotency-Key": "k"}
    name = client.post("/v1/videos", json=body, headers=headers).json()["id"]
    client.delete(f"/v1/videos/{name}")
    queue = client.studio.queue
    assert queue.to_purge(queue.clock() + 10) == [name] and queue.purge(name)
    again = client.post("/v1/videos", json=body, headers=headers)
    assert again.status_code == 409 and "was deleted" in again.json()["error"]["message"]
    assert client.post(f"/v1/videos/{name}/restore").status_code == 404
    queue.read("PRAGMA wal_checkpoint(TRUNCATE)")
    queue.close()
    assert not any(b"secret" in file.read_bytes() for file in queue.path.parent.glob("studio.sqlite*"))


def test_files_of_a_refused_request_do_not_stay(client, monkeypatch):
    def refuse(*values):
        raise InputError("size: cannot be made")

    monkeypatch.setattr(client.studio, "plan", refuse)
    files = {"prompt": (None, "a ball"), "input_reference": ("x.png", png())}
    assert client.post("/v1/videos", files=files).status_code == 400
    assert os.listdir(client.studio.folder.root / "inputs") == []
    assert client.studio.queue.count_inputs("local") == 0


def test_files_that_come_twice_with_one_key_are_kept_once(client):
    files = {"prompt": (None, "a ball"), "input_reference": ("x.png", png())}
    headers = {"Idempotency-Key": "k"}
    names = {client.post("/v1/videos", files=files, headers=headers).json()["id"] for _ in range(3)}
    assert len(names) == 1 and len(os.listdir(client.studio.folder.root / "inputs")) == 1


def test_uploads_are_counted_however_they_come(client):
    files = {"prompt": (None, "a ball"), "input_reference": ("x.png", png())}
    codes = [client.post("/v1/videos", files=files).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert client.post("/v1/inputs", files={"file": ("x.png", png())}).status_code == 429


@pytest.mark.parametrize(
    "fields", [{"steps": 5}, {"model": "tiny"}, {"size": "64x64"}, {"input_reference": "x"}, {"": 1}]
)
def test_what_a_remix_does_not_read_is_refused_by_name(client, fields):
    name = completed(client)
    answer = client.post(f"/v1/videos/{name}/remix", json={"prompt": "a cube", **fields})
    assert answer.status_code == 400 and "not taken here" in answer.json()["error"]["message"]
    files = {"prompt": (None, "a cube"), "input_reference": ("x.png", png())}
    assert client.post(f"/v1/videos/{name}/remix", files=files).status_code == 400


def test_a_remix_and_a_continuation_are_two_requests(client):
    name, headers = completed(client), {"Idempotency-Key": "k"}
    fields = {"prompt": "a cube"}
    assert client.post(f"/v1/videos/{name}/remix", json=fields, headers=headers).status_code == 200
    other = client.post("/v1/videos/extensions", json={**fields, "video": name}, headers=headers)
    assert other.status_code == 409


def test_a_page_begins_behind_a_video_of_ones_own(client):
    names = [client.post("/v1/videos", json=BODY).json()["id"] for _ in range(3)]
    client.delete(f"/v1/videos/{names[1]}")
    for order, after in (("asc", [names[2]]), ("desc", [names[0]])):
        found = client.get(f"/v1/videos?after={names[1]}&order={order}").json()["data"]
        assert [each["id"] for each in found] == after, "a deleted video has a place too"
    client.studio.queue._writer.execute("UPDATE videos SET owner = 'ben' WHERE id = ?", (names[0],))
    for after in (names[0], "video_" + "0" * 32, ""):
        answer = client.get(f"/v1/videos?after={after}&order=asc")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "after"


def test_a_model_with_a_slash_in_its_name_is_found(tmp_path):
    with idle_studio(tmp_path, worker={"models": ("zai-org/CogVideoX-2b",)}) as client:
        for path in ("zai-org/CogVideoX-2b", "zai-org%2FCogVideoX-2b"):
            assert client.get(f"/v1/models/{path}").json()["id"] == "zai-org/CogVideoX-2b"


@pytest.mark.parametrize(("name", "value"), [("steps", 201), ("frames", 401), ("height", 1000)])
def test_limits_hold_for_what_models_and_given_videos_add(name, value):
    """A height without its width, seconds at the rate of a given video, settings of a remix's source."""
    planned = {"steps": 200, "frames": 400, "height": 768, "width": 1360}

    def plan(**changed):
        facts = {**planned, **changed}
        return SimpleNamespace(**{**facts, "frames": SimpleNamespace(asked=facts["frames"])})

    check_planned(plan(), StudioLimits())
    with pytest.raises(InputError, match="the most on this server is"):
        check_planned(plan(**{name: value}), StudioLimits())
