"""Several seeds of one request: the same videos as alone, one model, what is made stays."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.generation import several
from cogvideox.video import read_video
from cogvideox.video.saving import is_ours

ASK = ["generate", "a red circle", "--steps", "2", "--frames", "5"]


def cogvideox(*words: object, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def test_each_seed_gives_its_own_video_by_one_model(tmp_path, monkeypatch):
    from cogvideox import checkpoints

    loads, load_model = [], checkpoints.load_model
    monkeypatch.setattr(
        checkpoints, "load_model", lambda *given, **more: loads.append(1) or load_model(*given, **more)
    )
    done = cogvideox(*ASK, "--seed", 7, "--count", 3, "--out", tmp_path / "a.mp4", "--json")
    *videos, sheet = map(json.loads, done.stdout.splitlines())
    assert [each["seed"] for each in videos] == [7, 8, 9] and len(loads) == 1
    assert [each["path"] for each in videos] == [str(tmp_path / f"a-{number}.mp4") for number in (1, 2, 3)]
    assert sheet == {"sheet": str(tmp_path / "a-sheet.png")} and is_ours(sheet["sheet"])
    with Image.open(sheet["sheet"]) as image:
        assert image.height > 3 * 128
    cogvideox(*ASK, "--seed", 8, "--out", tmp_path / "b.mp4")
    assert (read_video(tmp_path / "b.mp4").frames == read_video(tmp_path / "a-2.mp4").frames).all()


def test_what_is_made_stays_when_the_run_is_interrupted(tmp_path, monkeypatch):
    make, made = several.make, []

    def interrupted(*given, **more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return make(*given, **more)

    monkeypatch.setattr(several, "make", interrupted)
    done = CliRunner().invoke(app, [*ASK, "--count", "4", "--out", str(tmp_path / "a.mp4")])
    assert done.exit_code != 0
    assert sorted(each.name for each in tmp_path.glob("a-*.*")) == [
        "a-1.json", "a-1.mp4", "a-2.json", "a-2.mp4", "a-sheet.png",
    ]  # fmt: skip


def test_files_that_exist_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video-2.mp4").write_bytes(b"mine")
    assert several.SeveralFiles.of(None, 2, several.Job()).videos[0].name == "video-2-1.mp4"
    (tmp_path / "a-2.mp4").write_bytes(b"mine")
    assert "a-2.mp4" in cogvideox(*ASK, "--count", 2, "--out", "a.mp4", code=1).stderr
    (tmp_path / "c-sheet.png").write_bytes(b"mine")
    done = cogvideox(*ASK, "--count", 2, "--out", "c.mp4", "--overwrite", code=1)
    assert "c-sheet.png: exists already and was not made here" in done.stderr


@pytest.mark.parametrize("count", [0, 101])
def test_a_count_that_cannot_be_is_refused(count):
    assert f"count {count}: choose 1 to 100" in cogvideox(*ASK, "--count", count, code=2).stderr


def test_a_batch_has_seeds_of_its_own(tmp_path):
    (tmp_path / "p.txt").write_text("a red circle\n")
    assert (
        "--batch have seeds of their own"
        in cogvideox("generate", "--batch", tmp_path / "p.txt", "--count", 2, code=2).stderr
    )
