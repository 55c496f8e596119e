"""The verb evaluate: models whose videos are made, folders, comparisons, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.evaluation.report import Report
from cogvideox.evaluation.two_objects import two_object_prompts
from cogvideox.evaluation.vbench import export_name
from cogvideox.video import Video, read_video
from cogvideox.world import held_out_prompts, render
from toy_folder import write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def two_videos(folder: Path, turned: bool = False) -> Path:
    """Six rendered prompts about two things; turned: each answers another prompt."""
    asked = two_object_prompts()[1:7]
    for place, two in enumerate(asked):
        shown = asked[(place + 3) % 6] if turned else two
        Video(render(shown.scene, frames=5), 8).save(folder / export_name(two.prompt, 0, ".mkv"))
    return folder


def test_a_models_world_videos_are_made_kept_and_scored(here, toy):
    words = ["--model", toy, "--prompts", "3", "--seeds", "1", "--steps", "1", "--out", "run"]
    first = run(*words)
    assert "| fact |" in first.stdout and "world_all_facts" in first.stdout
    report = Report.read("run")
    assert len(report.videos) == 3 and report.score("world_all_facts").videos == 3
    kept = {path: path.stat().st_mtime_ns for path in Path("run/videos").iterdir() if path.suffix == ".mkv"}
    assert len(kept) == 3
    (removed := sorted(kept)[0]).unlink()
    assert (
        "1 missing" in run(*words).stderr
    )  # its verdict stands: it is not made again, and said to be missing
    assert run(*words, "--json").stdout.startswith("{")
    assert not removed.exists() and all(
        path.stat().st_mtime_ns == kept[path] for path in kept if path != removed
    )


def test_an_image_to_video_model_begins_at_the_true_first_frame(here):
    words = ["--model", "tiny-i2v", "--prompts", "1", "--steps", "2", "--guidance", "1"]
    run(*words, "--suite", "world", "--out", "w")
    (made,) = Path("w/videos").glob("*.mkv")
    truth = render(held_out_prompts()[0].scene)[0].astype(float)
    assert np.abs(read_video(made).frames[0] - truth).mean() < 12
    run(*words, "--suite", "two", "--out", "t")
    (made,) = Path("t/videos").glob("*.mkv")
    truth = render(two_object_prompts()[0].scene)[0].astype(float)
    assert np.abs(read_video(made).frames[0] - truth).mean() < 12


def test_an_autoencoder_is_scored_against_rendered_truth(here, toy):
    done = run(toy, "--suite", "vae", "--prompts", "2", "--out", "vae")
    report = Report.read("vae")
    assert report.score("psnr_clip").videos == 2 and report.score("ssim_rgb").low is not None
    assert report.score("world_all_facts").videos == 2
    assert "lpips_stand_in" in done.stdout
    assert len(list(Path("vae/originals").glob("*.mkv"))) == 2
    assert "another" in run(toy, "--suite", "world", "--prompts", "1", "--out", "vae", code=2).stderr


def test_a_prompt_suite_is_generated_and_what_cannot_be_computed_is_said(here, toy):
    words = ["--suite", "paper", "--prompt-set", "gallery", "--prompts", "1", "--seeds", "1", "--steps", "1"]
    done = run(toy, *words, "--out", "p", "--debug")
    assert "vbench_scene_raw: needs Tag2Text" in done.stdout and "mtscore: needs" in done.stdout


def test_a_video_made_for_another_prompt_is_not_scored(here, toy):
    words = ["--suite", "two", "--prompts", "1", "--steps", "1", "--out", "q"]
    run(toy, *words)
    told = Path("q/videos/metadata.jsonl")
    told.write_text(json.dumps(json.loads(told.read_text()) | {"text": "another prompt"}) + "\n")
    done = CliRunner().invoke(app, ["evaluate", "--model", str(toy), *words])
    assert done.exit_code == 2 and "made for another prompt" in done.output


def test_two_folders_are_compared(here):
    right, wrong = two_videos(here / "right"), two_videos(here / "wrong", turned=True)
    run(right, "--suite", "two", "--out", "a")
    done = run(wrong, "--suite", "two", "--out", "b", "--against", "a")
    assert "| two_all | 0 | 1 | -1 |" in done.stdout and "worse" in done.stdout
    rows = {row["name"]: row["verdict"] for row in json.loads(Path("b/comparison.json").read_text())}
    assert rows["two_all"] == "worse" and rows["frozen_share"] == "undecided"
    assert Report.read("a").score("two_all").value == 1
    page = Path("b/report.html").read_text()
    assert page.count("data:image/jpeg") == 6 and "<svg" in page


def test_what_cannot_be_asked_is_refused(here, toy):
    Video(np.zeros((5, 16, 16, 3), np.uint8), 8).save(here / "v" / "a.mp4")
    assert "did you mean 'paper'" in run("v", "--suite", "papre", code=2).stderr
    assert "no report" in run("v", "--against", "gone", code=2).stderr
    assert "give one of them" in run("v", "--model", toy, code=2).stderr
    assert "no lists of numbers" in run("v", "--suite", "paper", "--devil", "v/a.mp4", code=2).stderr
    assert "no TorchScript" in run("v", "--suite", "paper", "--i3d", "v/a.mp4", code=1).stderr
    assert "no record of experts" in run("v", "--suite", "paper", "--observations", "gone", code=2).stderr
    (here / "empty").mkdir()
    assert "no video" in run("empty", code=2).stderr
    done = run("v", "--suite", "world", "--out", "w")
    assert "1 mismatched" in done.stdout and "no prompt is known" in done.stdout
