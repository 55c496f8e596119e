"""The queue: what is accepted is on disk, turns are fair, and each video ends exactly once, whatever is killed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideox.errors import OutputError
from cogvideox.studio.queue import EDGES, NewVideo, PageQuery, VideoQueue

KILLS = Path(__file__).resolve().parents[2] / "benchmarks" / "studio_kills.py"


@pytest.fixture
def queue(tmp_path):
    queue = VideoQueue(tmp_path / "queue.sqlite")
    yield queue
    queue.close()


def add(queue, owner="ann", prompt="a ball", **more):
    return queue.add(NewVideo(owner, {"settings": {"prompt": prompt}}, **more))


def test_turns_are_fair_between_users(queue):
    """A user with many videos does not keep another one waiting for all of them."""
    for _ in range(5):
        add(queue, "ann")
    ben, eve = add(queue, "ben"), add(queue, "eve")
    order = []
    while (video := queue.take()) is not None:
        order.append(video.owner)
        if video.id in (ben.id, eve.id):
            assert video.state == "running"
        queue.end(video.id, "completed", size=1)
    assert order == ["ann", "ben", "eve", "ann", "ann", "ann", "ann"]


def test_who_has_nothing_running_comes_first(queue):
    for owner in ("ann", "ann", "ann", "ben"):
        add(queue, owner)
    assert [queue.take().owner for _ in range(4)] == ["ann", "ben", "ann", "ann"]


def test_a_video_ends_once(queue):
    video = add(queue)
    assert not queue.end(video.id, "completed"), "it is not running"
    assert queue.take().id == video.id
    assert queue.end(video.id, "completed", result={"seed": 1}, size=10)
    assert not queue.end(video.id, "failed") and not queue.put_back(video.id)
    assert queue.cancel(video.id).state == "completed"
    assert queue.get(video.id).result == {"seed": 1}
    steps = [(each["was"], each["becomes"]) for each in queue.read("SELECT * FROM transitions")]
    assert steps == [("queued", "running"), ("running", "completed")]
    with pytest.raises(AssertionError, match="no change of state"), queue.changing() as db:
        queue._change(db, video.id, "completed", "queued")
    assert all(not EDGES[state] for state in ("completed", "failed", "cancelled"))


def test_cancel_and_delete(queue):
    waiting, running, other = add(queue), add(queue), add(queue)
    assert queue.cancel(waiting.id).state == "cancelled"
    taken = queue.take()
    assert taken.id == running.id and queue.cancel(running.id).cancelling
    assert queue.delete(other.id) and not queue.delete(other.id)
    assert queue.take() is None and queue.get(other.id).state == "cancelled"
    assert queue.cancel("video_" + "0" * 32) is None


def test_an_idempotency_key_gives_the_same_video_again(queue):
    first = add(queue, idempotency="k", digest="a")
    assert add(queue, idempotency="k", digest="b").id == first.id
    assert add(queue, "ben", idempotency="k").id != first.id
    assert add(queue).id != add(queue).id


def test_pages_search_and_favourites(queue):
    names = [add(queue, prompt=f"ball {number} 100%_").id for number in range(5)]
    add(queue, "ben")
    page, more = queue.page("ann", PageQuery(2))
    assert [each.id for each in page] == names[:2:-1] and more
    page, more = queue.page("ann", PageQuery(10, after=page[-1].id))
    assert [each.id for each in page] == names[2::-1] and not more
    page, _ = queue.page("ann", PageQuery(10, order="asc", after=names[1]))
    assert [each.id for each in page] == names[2:]
    assert [each.id for each in queue.page("ann", PageQuery(search="L 3"))[0]] == [names[3]]
    assert len(queue.page("ann", PageQuery(search="0%_"))[0]) == 5
    assert not queue.page("ann", PageQuery(search="b_ll"))[0]
    queue.set_favourite(names[0], True)
    assert [each.id for each in queue.page("ann", PageQuery(favourite=True))[0]] == [names[0]]


def test_deleted_videos_can_be_brought_back_until_they_are_purged(queue):
    video = add(queue)
    queue.take()
    queue.end(video.id, "completed", size=7)
    assert queue.bytes_used("ann") == 7
    queue.delete(video.id)
    assert queue.restore(video.id) and not queue.restore(video.id)
    queue.delete(video.id)
    assert queue.to_purge(queue.clock() + 1) == [video.id]
    assert queue.purge(video.id) and not queue.restore(video.id)
    gone = queue.get(video.id)
    assert (gone.prompt, gone.request, gone.result, gone.bytes) == ("", {}, {}, 0), "its texts went too"
    assert queue.to_purge(queue.clock() + 1) == [] and queue.bytes_used() == 0


def test_recovery_looks_at_the_files_first(queue):
    names = [add(queue).id for _ in range(5)]
    for _ in names:
        queue.take()
    there, cancelled, tired, fresh, ended = names
    queue.end(ended, "failed")
    queue.cancel(cancelled)
    for _ in range(2):
        queue.put_back(tired, "interruptions")
        queue.take()
    becomes = queue.recover(lambda name: ({"seed": 4}, 9) if name == there else None, most=3)
    assert becomes == {there: "completed", cancelled: "cancelled", tired: "failed", fresh: "queued"}
    assert queue.get(there).result == {"seed": 4} and queue.get(there).bytes == 9
    assert queue.get(tired).error["code"] == "interrupted"
    assert queue.get(fresh).interruptions == 1
    assert queue.get(ended).state == "failed"


def test_a_damaged_file_is_named_and_left_alone(tmp_path):
    path = tmp_path / "queue.sqlite"
    queue = VideoQueue(path)
    for _ in range(50):
        add(queue)
    queue.close()
    content = bytearray(path.read_bytes())
    content[8192:20000] = b"\xff" * (20000 - 8192)
    path.write_bytes(content)
    with pytest.raises(OutputError, match="damaged|cannot be used"):
        VideoQueue(path)
    assert path.read_bytes() == content


def test_a_disk_that_refuses_is_an_error_of_ours_and_nothing_is_half_done(queue, monkeypatch):
    video = add(queue)

    class Full:
        def __init__(self, inner):
            self.inner = inner

        def execute(self, text, *values):
            if text == "COMMIT":
                self.inner.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return self.inner.execute(text, *values)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(queue, "_writer", Full(queue._writer))
    with pytest.raises(OutputError, match="disk is full"):
        queue.take()
    monkeypatch.undo()
    assert queue.get(video.id).state == "queued"
    assert queue.take().id == video.id


def test_the_file_is_for_its_owner_alone(queue):
    assert queue.path.stat().st_mode & 0o777 == 0o600
    add(queue)
    assert queue.path.with_name("queue.sqlite-wal").stat().st_mode & 0o777 == 0o600


def test_the_queue_survives_kills_at_any_instant(tmp_path):
    """Processes that add, take, end and cancel are killed with SIGKILL; benchmarks/studio_kills.py does hundreds."""
    command = [sys.executable, str(KILLS), "--queue-only", "--kills", "25", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 25 and counts["acknowledged"] == counts["there"] > 0
    assert counts["ended"] > 0


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version=99",
        "ALTER TABLE videos ADD COLUMN shine TEXT",
        "ALTER TABLE videos DROP COLUMN favourite",
    ],
    ids=["newer", "one more", "one less"],
)
def test_a_queue_of_another_version_is_left_as_it_is(tmp_path, change):
    path = tmp_path / "queue.sqlite"
    first = VideoQueue(path)
    add(first)
    first.close()
    VideoQueue(path).close()
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with pytest.raises(OutputError, match="made by another version"):
        VideoQueue(path)


def test_a_damaged_entry_is_named(queue):
    video = add(queue)
    queue._writer.execute("UPDATE videos SET request = '{'")
    with pytest.raises(OutputError, match=f"{video.id}: its request in the queue is damaged"):
        queue.get(video.id)


@pytest.mark.parametrize("search", ["ÄRGER", "a\u0308rger", "ärger", "Ärger in der STRASSE", "100%", "_b"])
def test_search_reads_letters_as_people_do(queue, search):
    video = add(queue, prompt="Ein ärger in der Straße, 100% a_b")
    add(queue, prompt="nothing")
    found, _ = queue.page("ann", PageQuery(search=search))
    assert [each.id for each in found] == [video.id]
