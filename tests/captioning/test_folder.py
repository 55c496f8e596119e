"""A folder of videos through the verb: files, captions, reasons, reruns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvideox.captioning.folder import load_frames
from cogvideox.captioning.strategy import CaptionConfig
from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.video import Video
from cogvideox.world import caption, facts, read_caption, render, sample_scene
from support.scripted_server import completion, error, scripted_server


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six clips of the world and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(6):
        frames = render(sample_scene(21, index), size=128)
        Video(frames, 8.0).save(folder / f"clip {index}.mp4", metadata=False)
    (folder / "broken.mp4").write_bytes(b"\0" * 500)
    (folder / "notes.txt").write_text("no video")
    return folder


pytestmark = pytest.mark.usefixtures("here")


def run(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["caption", *map(str, words)])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def lines(file: str) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_a_folder_is_described_by_the_papers_path_offline(videos, here):
    words = (
        videos,
        "--strategy",
        "paper",
        "--ask",
        "rules",
        "--match",
        "rules",
        "seconds=1.0",
        "--out",
        "out",
    )
    run(*words, code=3)
    records = lines("out/records.jsonl")
    assert [r["file"] for r in records] == ["broken.mp4", *(f"clip {i}.mp4" for i in range(6))]
    assert (records[0]["ended"], records[0]["stage"]) == ("failed", "decode")
    told = lines("out/metadata.jsonl")
    assert len(told) == sum(r["ended"] == "done" for r in records) >= 5
    for line in told:
        assert (here / "out" / line["file_name"]).resolve().is_file() and line["match"] >= 0.75
    right = 0
    for index, record in enumerate(records[1:]):
        right += set(facts(sample_scene(21, index))) <= set(read_caption(record["caption"]))
    assert right >= 5
    before = {file: file.read_bytes() for file in Path("out").rglob("*") if file.is_file()}
    run(*words, code=3)
    assert {file: file.read_bytes() for file in Path("out").rglob("*") if file.is_file()} == before


def test_a_server_that_comes_back_is_asked_for_the_rest(videos, here):
    pytest.importorskip("openai")
    mood = {"bad": True}

    def script(request, attempt):
        return error(503) if mood["bad"] and attempt % 2 else completion("A shape moves over a grey field.")

    with scripted_server(script) as seen:
        words = (videos, "--strategy", "ask", "--ask", seen.url, "--ask-model", "m", "--out", "out", "--json",
                 "chat.tries=1", "chat.failures=99", "chat.concurrency=1")  # fmt: skip
        done = run(*words, code=3)
        counts = json.loads(done.stdout)["counts"]
        assert counts["pending"] and counts["failed"] == 1 and sum(counts.values()) == 7
        mood["bad"] = False
        asked = len(seen.requests)
        done = run(*words, code=3)
        assert json.loads(done.stdout)["counts"] == {"failed": 1, "done": 6}
        assert len(seen.requests) == asked + counts["pending"]


@pytest.mark.parametrize(("words", "says"), [
    (["--strategy", "paper"], "who is asked"),
    (["--strategy", "ask", "--ask", "http://127.0.0.1:9/v1"], "which model"),
    (["--strategy", "distilled", "--ask", "rules"], "which summariser"),
    (["--strategy", "magic"], "watch"),
    (["--match", "ask"], "who is asked"),
    (["--ask", "rules"], "has no effect with strategy watch"),
    (["chat.speed=3"], "unknown setting"),
])  # fmt: skip
def test_wrong_settings_are_told_before_any_work(videos, words, says, here):
    done = run(videos, *words, code=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1 and not Path("captions").exists()


def test_a_folder_without_videos_is_an_error(here):
    assert "holds no videos" in run(here, code=2).stderr
    assert "strategy: paper" in run(_one(here), "--strategy", "paper", "--ask", "rules", "--dry-run").stdout


def _one(folder: Path) -> Path:
    return Video(render(sample_scene(0, 0)), 8.0).save(folder / "a.mp4", metadata=False)


def test_long_and_large_videos_are_seen_small_and_slow(here):
    frames = render(sample_scene(0, 0), size=900, frames=33)
    seen = load_frames(Video(frames, 16.0).save(here / "a.mp4", metadata=False))
    assert seen.frames.shape[1:] == (768, 768, 3) and 16 <= len(seen.frames) <= 18
    assert seen.moments[1] == 0.125


def test_settings_are_checked_as_values():
    with pytest.raises(ConfigError, match="summariser"):
        CaptionConfig(strategy="distilled", ask="rules")
    assert caption(sample_scene(0, 0), 0, 0)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_two_workers_write_the_tables_of_one_process_and_resume(videos, here, engine, request):
    if engine == "ray":
        request.getfixturevalue("cluster")
    words = (videos, "--match", "rules")
    run(*words, "--out", "one", code=3)
    run(*words, "--out", "two", "--engine", engine, "--workers", "2", code=3)
    for name in ("metadata.jsonl", "records.jsonl"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes(), name
    before = {path: path.stat().st_mtime_ns for path in Path("two/work").rglob("*.json")}
    run(*words, "--out", "two", "--engine", engine, "--workers", "2", code=3)
    assert {path: path.stat().st_mtime_ns for path in Path("two/work").rglob("*.json")} == before


def test_a_server_is_asked_by_one_process(videos, here):
    asked = ("--strategy", "paper", "--ask", "rules", "--engine", "ray")
    assert "a server is asked by one process" in run(videos, *asked, code=2).stderr
