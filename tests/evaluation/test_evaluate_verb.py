"""The verb evaluate: models whose videos are made, folders, comparisons, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints import load_model, save_lora, save_model
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.lora import add_lora
from cogvideox.cli import app
from cogvideox.evaluate_model.options import EvaluateOptions
from cogvideox.evaluate_model.videos import asked_videos
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.world_conditions import brought
from cogvideox.evaluation.world_facts import two_object_prompts
from cogvideox.files.digest import sha256_of
from cogvideox.generation.recommended import Recommended, write_recommended
from cogvideox.model import CogVideoX
from cogvideox.training.tasks.diffusion_network import with_more_channels
from cogvideox.video import Video, read_video
from cogvideox.world import held_out_prompts, render


def run(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def two_videos(folder: Path, turned: bool = False, num: int = 6) -> Path:
    """Some rendered prompts about two things; turned: each answers another prompt."""
    asked = two_object_prompts()[1 : num + 1]
    for place, two in enumerate(asked):
        shown = asked[(place + 3) % num] if turned else two
        Video(render(shown.scene, frames=5), 8).save(folder / f"{two.prompt}-0.mkv")
    return folder


def test_a_models_world_videos_are_made_kept_and_scored(here, toy):
    words = ["--model", toy, "--prompts", "3", "--seeds", "1", "--steps", "1", "--out", "run"]
    first = run(*words)
    assert "| fact |" in first.stdout and "world_all_facts" in first.stdout
    report = ScoreReport.read("run")
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


def few_step_adapter(model: str, file: Path) -> Path:
    """An adapter that changes much, with two steps without guidance recommended beside it."""
    whole = load_model(model)
    torch.manual_seed(0)
    for matrix in add_lora(whole, rank=2, targets=("to_q", "to_v")):
        nn.init.normal_(matrix, std=0.5)
    save_lora(whole, file)
    write_recommended(file, Recommended(times=(999, 500), guidance=1, scale=0.5))
    return file


def test_a_model_is_scored_with_an_adapter_and_the_settings_beside_it(here, toy):
    adapter = few_step_adapter(toy, here / "few.safetensors")
    words = ["--model", toy, "--prompts", "2", "--out"]
    run(*words, "with", "--lora", adapter)
    run(*words, "elsewhere", "--lora", adapter, "--workers", "1")
    run(*words, "without", "--steps", "2", "--guidance", "1")
    record = json.loads(Path("with/evaluation.json").read_text())
    assert record["options"] == {"times": [999, 500], "guidance": 1}
    assert record["adapters"] == [{"sha256": sha256_of(adapter), "strength": 0.5}]
    generate = [
        "generate",
        held_out_prompts()[0].prompt,
        "--model",
        toy,
        "--lora",
        str(adapter),
        "--seed",
        "0",
    ]
    made = CliRunner().invoke(app, [*generate, "--out", "same.mkv"])
    assert made.exit_code == 0, made.stderr
    first = asked_videos(EvaluateOptions(suite="world", prompts=2))[0].name
    frames = read_video(Path("with/videos") / first).frames
    np.testing.assert_array_equal(frames, read_video("same.mkv").frames)
    np.testing.assert_array_equal(frames, read_video(Path("elsewhere/videos") / first).frames)
    assert (frames != read_video(Path("without/videos") / first).frames).any()
    assert "another adapters" in run(*words, "with", "--lora", f"{adapter}:0.8", code=2).stderr
    assert "nowhere" in run(*words, "other", "--lora", "nowhere.safetensors", code=1).stderr


def test_options_that_say_what_is_made_are_refused_where_nothing_is(here, toy):
    (here / "videos").mkdir()
    how = (("--lora", "a.safetensors"), ("--steps", "4"), ("--guidance", "2"), ("--sampler", "ddim"))
    for flag, value in how:
        coded = run("--model", toy, "--suite", "vae", flag, value, code=2).stderr
        assert "suite vae: codes clips" in coded and f"leave {flag} out" in coded
    which = (("--prompts", "3"), ("--seeds", "2"), ("--prompt-set", "gallery"), ("--dtype", "bfloat16"))
    for flag, value in (*how, *which, ("--device", "cpu")):
        scored = run("videos", flag, value, code=2).stderr
        assert "folder of videos, none is made" in scored and f"leave {flag} out" in scored


def test_the_verb_is_one_call_of_python(here):
    first = cogvideox.evaluate("tiny", "run", suite="world", prompts=2, steps=2)
    assert isinstance(first, cogvideox.Evaluation)
    assert first.score("world_all_facts").videos == 2 and first.world is not None
    assert [each.value for each in ScoreReport.read("run").scores] == [
        each.value for each in first.report.scores
    ]
    assert "| fact |" in first.table()
    options = cogvideox.EvaluateOptions(suite="world", prompts=2, steps=2, against="run")
    again = cogvideox.evaluate("tiny", "run", options=options)
    assert {each.difference for each in again.differences} == {0.0}
    with pytest.raises(cogvideox.ConfigError, match="another options"):
        cogvideox.evaluate("tiny", "run", suite="world", prompts=2, steps=3)
    folder = cogvideox.evaluate("run/videos", "other", suite="two")
    assert folder.world is None
    with pytest.raises(cogvideox.ConfigError, match="did you mean 'world'"):
        cogvideox.evaluate("tiny", suite="wrld")


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


WIDENED = {"inpaint": ("inpaint", 33), "keyframes": ("inpaint", 33), "control": ("control", 32)}


@pytest.mark.parametrize("suite", WIDENED)
def test_a_model_that_reads_conditions_is_given_what_the_suite_brings(here, suite):
    kind, channels = WIDENED[suite]
    plain = load_model("tiny")
    network = with_more_channels(find_folder("tiny"), plain.transformer.config.changed(in_channels=channels))
    wide = CogVideoX.assemble(
        network, plain.vae, plain.text, plain.schedule, kind=kind, height=64, width=64, frames=17, fps=8
    )
    torch.nn.init.normal_(network.patch_embed.proj.weight.data[:, 16:], std=0.05)
    run(
        "--model",
        save_model(wide, "wide"),
        "--prompts",
        "1",
        "--steps",
        "2",
        "--guidance",
        "1",
        "--suite",
        suite,
    )
    (file,) = Path("eval/videos").glob("*.mkv")
    asked = held_out_prompts()[0]
    made = cogvideox.generate(wide, asked.prompt, steps=2, guidance=1, seed=0, **brought(suite, asked.scene))
    assert np.array_equal(read_video(file).frames, made.frames)
    other = cogvideox.generate(
        wide, asked.prompt, steps=2, guidance=1, seed=0, **brought(suite, held_out_prompts()[7].scene)
    )
    assert not np.array_equal(made.frames, other.frames)


def test_an_autoencoder_is_scored_against_rendered_truth(here, toy):
    done = run(toy, "--suite", "vae", "--prompts", "2", "--out", "vae")
    report = ScoreReport.read("vae")
    assert report.score("psnr_clip").videos == 2 and report.score("ssim_rgb").low is not None
    assert report.score("world_all_facts").videos == 2
    assert "lpips_stand_in" in done.stdout
    assert len(list(Path("vae/originals").glob("*.mkv"))) == 2
    assert "another" in run(toy, "--suite", "world", "--prompts", "1", "--out", "vae", code=2).stderr


def test_the_autoencoders_suite_ends_with_pairs():
    names = [asked.scene.tier for asked in asked_videos(EvaluateOptions(suite="vae"))]
    assert len(names) == 260 and set(names[200:]) == {"pair"} and "pair" not in names[:200]


def test_truth_that_is_noised_little_is_finished_as_it_is(here):
    words = [
        "--model",
        "tiny-base",
        "--suite",
        "finish",
        "--prompts",
        "1",
        "--steps",
        "10",
        "--guidance",
        "1",
    ]
    run(*words, "--strength", "0.1", "--out", "f")
    (file,) = Path("f/videos").glob("*.mkv")
    truth = render(held_out_prompts()[0].scene).astype(float)
    assert np.abs(read_video(file).frames - truth).mean() < 12
    report = ScoreReport.read("f")
    assert report.score("silhouette_iou").value > 0.7 and report.score("world_all_facts").value == 1
    assert (
        EvaluateOptions(suite="finish").generation == {"strength": 0.72}
        and EvaluateOptions().generation == {}
    )
    assert (
        "the suite finish alone" in run("--model", "tiny", "--strength", "0.5", "--out", "g", code=2).stderr
    )


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
    right, wrong = two_videos(here / "right", num=24), two_videos(here / "wrong", turned=True, num=24)
    run(right, "--suite", "two", "--out", "a")
    done = run(wrong, "--suite", "two", "--out", "b", "--against", "a")
    assert "| two_all | 0 | 1 | -1 |" in done.stdout and "worse" in done.stdout
    rows = {row["name"]: row["verdict"] for row in json.loads(Path("b/comparison.json").read_text())}
    assert rows["two_all"] == "worse" and rows["frozen_share"] == "undecided"
    assert ScoreReport.read("a").score("two_all").value == 1
    page = Path("b/report.html").read_text()
    assert page.count("data:image/jpeg") == 24 and "<svg" in page
    report = ScoreReport.read("b")
    assert report.comparison["against"] == "right" or str(right) in report.comparison["against"]
    assert {row["name"]: row["verdict"] for row in report.comparison["rows"]} == rows
    assert "<td>worse</td>" in page and "A verdict needs 20 prompts" in page and "Against" in page


def test_few_prompts_get_no_verdict_anywhere(here):
    right, wrong = two_videos(here / "right"), two_videos(here / "wrong", turned=True)
    run(right, "--suite", "two", "--out", "a")
    done = run(wrong, "--suite", "two", "--out", "b", "--against", "a")
    assert "| two_all | 0 | 1 | -1 |" in done.stdout and "20 are needed" in done.stdout
    page = Path("b/report.html").read_text()
    for words in (
        done.stdout.partition("| difference |")[2],
        page.partition("Against")[2].partition("</table>")[0],
    ):
        assert "too few prompts" in words
        assert not {"worse", "better", "undecided"} & set(words.replace("<", " ").replace(">", " ").split())
    assert {row["verdict"] for row in ScoreReport.read("b").comparison["rows"]} == {"too few prompts"}


def test_a_folder_without_a_suite_gets_the_one_its_prompts_belong_to(here):
    two_videos(here / "two")
    assert "suite two, by the prompts" in run("two", "--out", "a").stderr
    for place, prompt in enumerate(held_out_prompts()[:3]):
        video = Video(render(prompt.scene, frames=5), 8, {"config": {"prompt": prompt.prompt}})
        video.save(here / "world" / f"{place}.mkv")
    assert "suite world, by the prompts" in run("world", "--out", "b").stderr
    rng = np.random.default_rng(0)
    for place in range(3):
        Video(rng.integers(0, 255, (9, 32, 48, 3), np.uint8), 8).save(here / "any" / f"{place}.mp4")
    done = run("any", "--out", "c")
    assert "suite paper, by the prompts" in done.stderr and "| frozen_share | 0 " in done.stdout


def test_an_evaluation_that_measured_nothing_is_an_error(here):
    (here / "v").mkdir()
    (here / "v" / "a.mp4").write_bytes(b"no video")
    for words in ([], ["--suite", "world"], ["--suite", "paper"], ["--suite", "two"], ["--suite", "vae"]):
        done = run("v", *words, "--out", f"out{len(words)}{words[-1:]}", code=2)
        assert "nothing could be measured" in done.stderr and "1 broken" in done.stdout


def test_distances_over_unlike_rates_are_refused_or_brought_to_one_rate(here):
    rng = np.random.default_rng(0)
    for place in range(10):
        noise = rng.integers(0, 255, (54, 32, 48, 3), np.uint8)
        Video(noise[:18], 8).save(here / "ours" / f"{place}.mp4")
        Video(noise, 24).save(here / "real" / f"{place}.mp4")
    Video(noise[:20], 24).save(here / "real" / "short.mp4")
    Video(noise[:20], 4).save(here / "real" / "slow.mp4")
    words = ["ours", "--suite", "paper", "--references", "real"]
    done = run(*words, "--out", "a")
    assert (
        "videos have 8 frames a second and references 4 to 24" in done.stdout and "--fvd-fps" in done.stdout
    )
    done = run(*words, "--fvd-fps", "8", "--out", "a")
    score = next(
        s for s in ScoreReport.read("a").scores if s.name.startswith("fvd_fixed") and s.value is not None
    )
    assert (score.settings["fps"], score.settings["fps_videos"], score.settings["fps_references"]) == (
        8,
        [8, 8],
        [4, 24],
    )
    assert score.settings["too_short"] == {"videos": 0, "references": 1}
    assert score.settings["too_slow"] == {"videos": 0, "references": 1}
    for text in (done.stdout, Path("a/report.html").read_text()):
        assert "0 videos and 1 references shorter than" in text and "slower than the common rate" in text


def test_what_cannot_be_asked_is_refused(here, toy):
    Video(np.zeros((5, 16, 16, 3), np.uint8), 8).save(here / "v" / "a.mp4")
    assert "did you mean 'paper'" in run("v", "--suite", "papre", code=2).stderr
    assert "not a report" in run("v", "--against", "gone", code=2).stderr
    assert "give one of them" in run("v", "--model", toy, code=2).stderr
    assert "no lists of numbers" in run("v", "--suite", "paper", "--devil", "v/a.mp4", code=2).stderr
    assert "no TorchScript" in run("v", "--suite", "paper", "--i3d", "v/a.mp4", code=1).stderr
    assert "no recorded observations" in run("v", "--suite", "paper", "--observations", "gone", code=2).stderr
    (here / "empty").mkdir()
    assert "no video" in run("empty", code=2).stderr
    done = run("v", "--suite", "world", "--out", "w", code=2)
    assert "none of 1 videos belongs to suite world (no prompt is known for it)" in done.stderr


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_two_workers_make_the_videos_of_one_process(here, toy, engine, request):
    if engine == "ray":
        request.getfixturevalue("cluster")
    words = ("--model", toy, "--suite", "two", "--prompts", "3", "--steps", "1")
    run(*words, "--out", "one")
    run(*words, "--out", "two", "--engine", engine, "--workers", "2")
    made = sorted(path.name for path in Path("one/videos").iterdir())
    assert len(made) == 4 and made == sorted(path.name for path in Path("two/videos").iterdir())
    assert Path("one/videos/metadata.jsonl").read_bytes() == Path("two/videos/metadata.jsonl").read_bytes()
    for name in made[1:]:  # the file format writes a random number into each
        one, two = (read_video(Path(folder, "videos", name)).frames for folder in ("one", "two"))
        assert np.array_equal(one, two), name
    assert "is a folder of videos, none is made" in run("one/videos", "--workers", "2", code=2).stderr
