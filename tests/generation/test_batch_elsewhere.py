"""A batch on several workers: the same bytes as one process, one bad line alone, resumed like any other."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvideox.cli import app

pytestmark = pytest.mark.usefixtures("here")
TESTS = str(Path(__file__).parents[1])
LINES = [
    {"prompt": "a red circle", "seed": 1},
    {"prompt": "a blue circle", "seed": 2, "frames": 5},
    {"prompt": "a red square", "seed": 3, "lora": "gone.safetensors"},
    {"prompt": "a green square", "seed": 4},
]


def generate(model: str, out: str, *words: str, code: int = 3):
    Path("p.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    command = ["generate", "--batch", "p.jsonl", "--model", model, "--steps", "1", "--no-metadata"]
    done = CliRunner().invoke(app, [*command, "--out", out, *words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def digests(folder: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).glob("*"))}


@pytest.fixture(params=["local", "ray"])
def engine(request):
    """Two workers: processes, or actors of ray where it is installed."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


def test_two_workers_write_the_bytes_of_one_process_and_resume(toy, engine):
    generate(toy, "one")
    done = generate(toy, "two", "--engine", engine, "--workers", "2")
    assert digests("one") == digests("two") and len(digests("one")) == 4  # three videos, failed.json
    assert [each["line"] for each in json.loads(Path("two/failed.json").read_text())] == [3]
    assert sorted(done.stdout.split()) == sorted(str(path) for path in Path("two").glob("*.mp4"))
    lost = min(Path("two").glob("*.mp4"))
    lost.unlink()
    again = generate(toy, "two", "--engine", engine, "--workers", "2")
    assert again.stdout.split() == [str(lost)] and digests("one") == digests("two")


def test_a_line_that_fails_in_its_worker_is_named_and_the_others_are_made(toy, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("cogvideox.generation.batch.LINE_WORKER", "support.jobs:FailsAtBlue")
    done = generate(toy, "two", "--workers", "1")
    failures = {each["line"]: each["error"] for each in json.loads(Path("two/failed.json").read_text())}
    assert failures.keys() == {2, 3} and "out of memory" in failures[2]
    assert len(done.stdout.split()) == 2 and "line 2: " in done.stderr


def test_one_video_is_not_spread(toy):
    done = CliRunner().invoke(app, ["generate", "a", "--model", toy, "--engine", "ray"])
    assert done.exit_code == 2 and "engine ray: spreads the lines of a file" in done.stderr
