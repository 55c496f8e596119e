"""The labelling page: clips come one by one, what is said is on disk at once, nobody from outside may say anything."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from cogvideox.curation.labels import LABELS, read_labels, write_labels
from cogvideox.errors import InputError
from cogvideox.rating.labelling_app import LabelSheet, labelling_app

HERE = {"host": "127.0.0.1:7863"}


@pytest.fixture
def page(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (films / name).write_bytes(b"film " + name.encode())
    sheet = LabelSheet(films, tmp_path / "labels.jsonl")
    return TestClient(labelling_app(sheet), headers=HERE), tmp_path


def test_clips_are_labelled_one_by_one_and_kept_at_once(page):
    client, folder = page
    first = client.post("/api/next", json={}).json()
    assert (first["path"], first["done"], first["of"]) == ("a.mp4", 0, 2)
    second = client.post("/api/label", json={"clip": first["clip"], "labels": {"text": True}}).json()
    assert second["path"] == "b.mp4"
    assert read_labels(folder / "labels.jsonl") == {"a.mp4": {name: name == "text" for name in LABELS}}
    assert client.post("/api/next", json={"skip": [second["clip"]]}).json()["clip"] is None
    again = LabelSheet(folder / "films", folder / "labels.jsonl")
    assert again.next(set())["path"] == "b.mp4"


def test_films_are_served_under_names_that_say_nothing(page):
    client, _ = page
    clip = client.post("/api/next", json={}).json()["clip"]
    assert client.get(f"/media/{clip}").content == b"film a.mp4"
    assert client.get("/media/a.mp4").status_code == 404
    assert client.get("/media/..%2Flabels.jsonl").status_code == 404


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/api/label", {}, '{"clip": "x", "labels": {}}', 422),
        ("/api/label", {}, "[]", 400),
        ("/api/label", {"host": "evil.example"}, "{}", 421),
        ("/api/label", {"origin": "http://evil.example"}, "{}", 403),
        ("/api/label", {"content-type": "text/plain"}, "{}", 415),
    ],
)
def test_strangers_and_nonsense_are_refused(page, path, headers, body, status):
    client, folder = page
    said = {"content-type": "application/json", **headers}
    assert client.post(path, content=body, headers=said).status_code == status
    assert not (folder / "labels.jsonl").exists()


def test_unknown_labels_are_refused(page):
    client, _ = page
    clip = client.post("/api/next", json={}).json()["clip"]
    assert client.post("/api/label", json={"clip": clip, "labels": {"ugly": True}}).status_code == 422


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "a line looks like"),
        ('{"path": "a", "labels": {"txt": true}}', "did you mean 'text'"),
        ('{"path": "a", "labels": {"text": 1}}', "it is true or false"),
        ('{"path": 3, "labels": {}}', "path is a text"),
    ],
)
def test_bad_lines_of_labels_are_named(tmp_path, line, why):
    (tmp_path / "labels.jsonl").write_text('{"path": "ok", "labels": {}}\n' + line + "\n")
    with pytest.raises(InputError, match=why) as error:
        read_labels(tmp_path / "labels.jsonl")
    assert "labels.jsonl:2" in str(error.value)


def test_labels_survive_being_written(tmp_path):
    labels = {"b": {"text": True}, "a": {"static": False, "lecture": True}}
    write_labels(tmp_path / "labels.jsonl", labels)
    assert read_labels(tmp_path / "labels.jsonl") == labels
