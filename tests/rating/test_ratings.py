"""The rating server: blind, signed, durable, and deaf to strangers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from cogvideox.errors import ConfigError, InputError, OutputError
from cogvideox.rating.grades import ASPECTS
from cogvideox.rating.ledger import RatingEntry, RatingLedger
from cogvideox.rating.study import LEDGER, Study, make_study
from cogvideox.video import Video

testclient = pytest.importorskip("fastapi.testclient")
from cogvideox.rating.rating_app import ratings_app  # noqa: E402

GOOD = dict.fromkeys(ASPECTS, 1.0)
SCRIPT = "<script>boom()</script>"


def folder(path, num: int = 3, level: int = 0):
    for place in range(num):
        frames = np.full((5, 16, 16, 3), level + place, np.uint8)
        Video(frames, 8, {"config": {"prompt": f"{SCRIPT} {place}"}}).save(path / f"{place}.mp4")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"ours": folder(root / "a"), "theirs": folder(root / "b", level=99)}


@pytest.fixture(scope="module", params=["grades", "pairs"])
def study(request, folders, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    return make_study(folders, out, request.param), out


@pytest.fixture
def client(study, tmp_path):
    made, out = study
    (tmp_path / "media").symlink_to(out / "media")
    return testclient.TestClient(ratings_app(made, tmp_path), base_url="http://127.0.0.1")


def answer(asked, **changes):
    said = {"aspects": GOOD, "total": 4} if asked["mode"] == "grades" else {"choice": "left"}
    return {"assignment": asked["assignment"], **said, **changes}


def test_names_tell_nothing(study):
    made, out = study
    shown = json.dumps([media for unit in made.units for media in unit.media]) + " ".join(
        os.listdir(out / "media")
    )
    assert "ours" not in shown and "theirs" not in shown
    assert len(made.units) == (6 if made.mode == "grades" else 3)
    assert (out / "study.json").stat().st_mode & 0o077 == 0


def test_raters_see_everything_once_in_an_order_of_their_own(study):
    made, _ = study
    orders = {tuple(unit.id for unit in made.order(made.rater(f"rater {i}"))) for i in range(12)}
    assert len(orders) > 1 and all(sorted(order) == sorted(next(iter(orders))) for order in orders)
    assert made.rater(" A  b") == made.rater("a B")
    if made.mode == "pairs":
        sides = {made.swapped(made.rater(f"rater {i}"), made.units[0]) for i in range(12)}
        assert sides == {True, False}


def test_a_rater_goes_through_all_units_and_is_done(client, study):
    asked = client.post("/api/next", json={"name": "ann"}).json()
    for done in range(asked["of"]):
        assert asked["done"] == done and not asked["finished"]
        assert all(client.get(url).headers["content-type"] == "video/mp4" for url in asked["videos"])
        asked = client.post("/api/rate", json=answer(asked)).json()
    assert asked["finished"]
    assert client.post("/api/next", json={"name": "Ann"}).json()["finished"]


def test_one_rating_per_rater_and_unit(client):
    asked = client.post("/api/next", json={"name": "bob"}).json()
    first = answer(asked)
    assert client.post("/api/rate", json=first).status_code == 200
    assert client.post("/api/rate", json=first).status_code == 200  # sent twice by a shaky line: the same
    changed = {"total": 1} if asked["mode"] == "grades" else {"choice": "right"}
    assert client.post("/api/rate", json=first | changed).status_code == 409


def test_forged_assignments_are_refused(client, study):
    asked = client.post("/api/next", json={"name": "eve"}).json()
    unit, rater, signature = asked["assignment"].split(".")
    other = study[0].rater("bob")
    forged = [
        f"{unit}.{other}.{signature}",
        f"{unit}.{rater}.{'0' * 32}",
        "",
        "..",
        f"x.{rater}.{signature}",
        "é.é.é",
    ]
    for assignment in forged:
        assert client.post("/api/rate", json=answer(asked, assignment=assignment)).status_code == 422


def test_what_is_no_rating_is_refused(client):
    asked = client.post("/api/next", json={"name": "joe"}).json()
    wrong = (
        [{"total": 6}, {"total": None}, {"total": True}, {"aspects": {}}, {"aspects": GOOD | {"cover": 0.7}}]
        if asked["mode"] == "grades"
        else [{"choice": "both"}, {"choice": None}]
    )
    for change in wrong:
        assert client.post("/api/rate", json=answer(asked, **change)).status_code == 422
    assert client.post("/api/next", json={"name": " "}).status_code == 422
    assert (
        client.post("/api/next", content="[", headers={"content-type": "application/json"}).status_code == 400
    )
    assert client.post("/api/next", json=[1]).status_code == 400
    assert client.post("/api/next", json={"name": "x" * 70_000}).status_code == 413


def test_strangers_are_refused(client):
    """Another host name (DNS rebinding), another origin, a plain form, other files."""
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    post = {"json": {"name": "x"}}
    assert client.post("/api/next", headers={"origin": "http://evil.example"}, **post).status_code == 403
    assert client.post("/api/next", headers={"origin": "null"}, **post).status_code == 403
    assert client.post("/api/next", headers={"origin": "http://127.0.0.1"}, **post).status_code == 200
    assert client.post("/api/next", data={"name": "x"}).status_code == 415
    for path in (
        "/media/../study.json",
        "/media/%2e%2e%2fstudy.mp4",
        "/media/zz.mp4",
        "/page/study.json",
        "/docs",
    ):
        assert client.get(path).status_code == 404


def test_every_answer_forbids_scripts_that_are_not_ours(client):
    for path in ("/", "/page/ratings.js", "/media/zz.mp4", "/gone"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert "innerHTML" not in client.get("/page/ratings.js").text


def test_a_study_is_opened_again_and_must_be_the_same(study, folders, tmp_path):
    made, out = study
    assert make_study(folders, out, made.mode) == made == Study.read(out)
    with pytest.raises(ConfigError, match="another --out"):
        make_study({"ours": folders["ours"], "x": folders["theirs"]}, out, made.mode)
    with pytest.raises(ConfigError, match="mode"):
        make_study(folders, out, "pairs" if made.mode == "grades" else "grades")
    with pytest.raises(InputError, match="no study"):
        Study.read(tmp_path)


def test_ratings_get_their_models_back(study):
    made, _ = study
    rater = made.rater("ann")
    if made.mode == "grades":
        unit = next(unit for unit in made.units if unit.models == ("ours",))
        entry = made.entry(made.assignment(rater, unit), {"aspects": GOOD | {"instruction": 0}, "total": 4})
        rating = made.ratings([entry])[0]
        assert (rating.model, rating.total, rating.capped) == ("ours", 4, 2)
    else:
        for unit in made.units:
            entry = made.entry(made.assignment(rater, unit), {"choice": "left"})
            battle = made.battles([entry])[0]
            won = battle.a if battle.winner == "a" else battle.b
            assert unit.media[unit.models.index(won)] == made.media_for(rater, unit)[0]


WRITER = """
import sys
from pathlib import Path
from cogvideox.rating.ledger import RatingEntry, RatingLedger
ledger = RatingLedger(Path(sys.argv[1]))
for number in range(100_000):
    assert ledger.add(RatingEntry("r", str(number), {"total": number}))
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    """Killed in the middle of writing, three times: every number that was printed is there."""
    acknowledged = -1
    for wait in (3, 40, 100):
        file = tmp_path / f"{wait}.sqlite"
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True
        )
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= wait:
                os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        kept = {int(entry.unit) for entry in RatingLedger(file).entries()}
        assert kept >= set(range(acknowledged + 1))


def test_a_damaged_ledger_is_not_overwritten(tmp_path):
    (tmp_path / LEDGER).write_bytes(b"no database" * 100)
    with pytest.raises(OutputError):
        RatingLedger(tmp_path / LEDGER)
    assert (tmp_path / LEDGER).read_bytes().startswith(b"no database")


def test_a_full_disk_is_said(tmp_path):
    ledger = RatingLedger(tmp_path / LEDGER)
    ledger._db.execute("PRAGMA max_page_count=4")
    with pytest.raises(OutputError, match="space"):
        for number in range(50):
            ledger.add(RatingEntry("r", str(number), {"note": "x" * 2000}))
    assert sqlite3.connect(tmp_path / LEDGER).execute("PRAGMA integrity_check").fetchone() == ("ok",)
