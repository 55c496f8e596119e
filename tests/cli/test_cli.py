"""The command line: results on stdout, the rest on stderr, exit codes, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvideox import __version__
from cogvideox.cli import app
from cogvideox.files.digest import sha256_of
from cogvideox.video import Video, read_video
from support.models import write_model_folder

FAST = ["--steps", "2"]


@pytest.fixture(scope="module")
def toy_i2v(tmp_path_factory) -> str:
    return str(write_model_folder(tmp_path_factory.mktemp("models") / "toy-i2v", "i2v"))


def cogvideox(*words: str, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def shell(*words: str, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cogvideox", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **more)


def test_a_prompt_becomes_a_video_with_its_record(here, toy):
    done = cogvideox(
        "generate", "a red circle moves", "--model", toy, "--out", "red.mp4", "--seed", "3", *FAST
    )
    assert done.stdout == "red.mp4\n"
    assert "seed 3" in done.stderr
    video = read_video("red.mp4")
    assert (len(video), video.height, video.width) == (9, 32, 48)
    record = json.loads(Path("red.json").read_text())
    assert record["config"]["prompt"] == "a red circle moves" and record["seed"] == 3
    assert record["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert sorted(os.listdir()) == ["red.json", "red.mp4"]


def test_the_same_seed_gives_the_same_video_and_another_does_not(here, toy):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cogvideox("generate", "a red circle", "--model", toy, "--out", f"{name}.mp4", "--seed", seed, *FAST)
    a, b, c = (read_video(f"{name}.mp4").frames for name in "abc")
    assert (a == b).all() and (a != c).any()


def test_without_a_seed_each_run_draws_one_and_tells_it(here, toy):
    words = ["generate", "a red circle", "--model", toy, *FAST]
    told = [cogvideox(*words, "--out", f"{name}.mp4").stderr for name in "ab"]
    seeds = [json.loads(Path(f"{name}.json").read_text())["seed"] for name in "ab"]
    assert seeds[0] != seeds[1]
    assert all(f"--seed {seed} repeats it" in text for seed, text in zip(seeds, told, strict=True))
    cogvideox(*words, "--out", "c.mp4", "--seed", seeds[0])
    assert (read_video("a.mp4").frames == read_video("c.mp4").frames).all()


def test_prompt_as_a_flag_json_and_preview(here, toy):
    words = ["--prompt", "a red circle", "--model", toy, "--out", "v.mp4", "--json", "--preview", *FAST]
    done = cogvideox("generate", *words)
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert record["path"] == "v.mp4" and record["preview"] == "v.gif"
    assert record["seed"] == json.loads(Path("v.json").read_text())["seed"]
    assert read_video("v.gif").height >= 256 and len(read_video("v.gif")) == 9
    assert record["sheet"] == "v.png" and b"trainedAlgorithmicMedia" in Path("v.png").read_bytes()
    assert "v.png: exists already" in cogvideox("generate", *words[:4], "--out", "v.png", code=1).stderr


def test_no_metadata_keeps_the_prompt_out_of_everything(here, toy):
    cogvideox("generate", "a red circle", "--model", toy, "--out", "v.mp4", "--no-metadata", *FAST)
    assert os.listdir() == ["v.mp4"]
    assert b"red circle" not in Path("v.mp4").read_bytes()
    with av.open("v.mp4") as container:
        assert "trainedAlgorithmicMedia" in container.metadata["comment"]


def test_without_out_a_free_name_is_found(here, toy):
    names = [cogvideox("generate", "a red circle", "--model", toy, *FAST).stdout.strip() for _ in range(2)]
    assert names == ["video.mp4", "video-2.mp4"]


def test_an_image_and_a_video_start_a_video(here, toy, toy_i2v):
    cogvideox("generate", "a red circle", "--model", toy, "--out", "one.png", *FAST)
    cogvideox("generate", "a circle", "--model", toy_i2v, "--image", "one.png", "--out", "two.mp4", *FAST)
    words = ["--video", "two.mp4", "--strength", "0.5", "--sampler", "dpm", "--out", "three.mp4"]
    cogvideox("generate", "a circle", "--model", toy, *words, *FAST)
    assert json.loads(Path("three.json").read_text())["inputs"]["video"]["file"] == "two.mp4"


def test_a_dry_run_checks_and_makes_nothing(here, toy):
    done = cogvideox(
        "generate", "a red circle", "--model", toy, "--frames", "5", "--out", "v.mp4", "--dry-run"
    )
    assert "prompt: a red circle" in done.stdout and "plan_frames: 5" in done.stdout
    assert os.listdir() == []


def test_dry_run_reads_no_weights(here, toy, monkeypatch):
    import cogvideox.checkpoints as checkpoints

    monkeypatch.setattr(checkpoints, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    cogvideox("generate", "a red circle", "--model", toy, "--dry-run")
    bad = ["generate", "x", "--model", toy, "--height", "33"]
    assert "multiple of 16" in cogvideox(*bad, code=2).stderr


def test_a_long_prompt_is_cut_with_a_visible_warning(here, toy):
    prompt = "a red circle moves " * 10
    done = cogvideox("generate", prompt, "--model", toy, "--out", "v.mp4", *FAST)
    assert "warning: prompt: 131 tokens, the model reads" in done.stderr and "; cut: " in done.stderr
    assert "cut" in Path("v.json").read_text()


def test_a_lora_is_read_with_its_scale(here, toy):
    from cogvideox.checkpoints import load_model
    from cogvideox.checkpoints.lora import add_lora, save_lora

    model = load_model(toy)
    torch.manual_seed(0)
    for value in add_lora(model, rank=2):
        value.data.normal_(0, 0.5)
    save_lora(model, here / "mine.safetensors")
    save_file(load_file("mine.safetensors"), "silent.safetensors")  # the alpha stood in the metadata
    seeded = ["--seed", "42", *FAST]
    for name, extra in (
        ("plain", []),
        ("one", ["--lora", "mine.safetensors"]),
        ("zero", ["--lora", "mine.safetensors:0"]),
        ("told", ["--lora", "silent.safetensors", "--lora-alpha", "2"]),
    ):
        cogvideox("generate", "a red circle", "--model", toy, "--out", f"{name}.mp4", *extra, *seeded)
    names = ("plain", "one", "zero", "told")
    plain, one, zero, told = (read_video(f"{name}.mp4").frames.astype(int) for name in names)
    seen = np.abs(plain - one).mean()
    # matrix kernels may round differently, and the film's compression makes more of it
    assert seen > 1 and np.abs(plain - zero).mean() < seen / 5 and np.abs(told - one).mean() < seen / 5


def test_a_batch_makes_what_is_missing_and_only_that(here, toy):
    lines = ["a red circle", json.dumps({"prompt": "a blue square", "seed": 5, "name": "blue"})]
    Path("prompts.jsonl").write_text("\n".join(lines) + "\n\n")
    words = ["generate", "--batch", "prompts.jsonl", "--model", toy, "--out", "made", *FAST]
    first = cogvideox(*words)
    assert len(first.stdout.splitlines()) == 2 and Path("made/blue.mp4").is_file()
    assert json.loads(Path("made/blue.json").read_text())["seed"] == 5
    times = {path: path.stat().st_mtime_ns for path in Path("made").iterdir()}
    again = cogvideox(*words)
    assert again.stdout == "" and "2 made before, 0 to make" in again.stderr
    Path("prompts.jsonl").write_text("a green circle\n" + lines[1])
    cogvideox(*words)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(Path("made").glob("*.mp4"))) == 3


def test_a_batch_goes_on_after_a_failure_and_says_so(here, toy):
    lines = [{"prompt": "a red circle", "height": 33}, {"prompt": "a red circle"}, {"prompt": "x", "sed": 1}]
    Path("p.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    done = cogvideox("generate", "--batch", "p.jsonl", "--model", toy, "--out", "made", *FAST, code=3)
    assert len(done.stdout.splitlines()) == 1
    failed = json.loads(Path("made/failed.json").read_text())
    assert [item["line"] for item in failed] == [1, 3]
    assert "did you mean 'seed'" in failed[1]["error"]


def test_a_batch_that_was_stopped_between_record_and_video_goes_on(here, toy):
    Path("p.txt").write_text("a red circle\n")
    words = ["generate", "--batch", "p.txt", "--model", toy, "--out", "made", *FAST]
    (made,) = cogvideox(*words).stdout.split()
    Path(made).unlink()
    assert cogvideox(*words).stdout.split() == [made]


@pytest.mark.parametrize("where", ["denoise", "decode"])
def test_ctrl_c_ends_with_130_and_leaves_nothing(here, toy, monkeypatch, where):
    import cogvideox.generation.pipeline as run

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, f"_{where}", interrupted)
    done = cogvideox("generate", "a red circle", "--model", toy, "--out", "v.mp4", *FAST, code=130)
    assert done.stdout == "" and done.stderr.splitlines()[-1].startswith("interrupted")
    assert os.listdir() == []


def test_unexpected_errors_are_one_line_and_debug_shows_them(here, toy, monkeypatch):
    import cogvideox.generation.pipeline as run

    def broken(*_, **__):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(run, "_denoise", broken)
    words = ["generate", "a red circle", "--model", toy, "--out", "v.mp4", *FAST]
    done = cogvideox(*words, code=1)
    assert done.stderr.splitlines()[-1].startswith(
        "error: unexpected ZeroDivisionError: two lines; run again with"
    )
    shown = CliRunner().invoke(app, [*words, "--debug"])
    assert isinstance(shown.exception, ZeroDivisionError)


def test_inspect_says_what_it_is_and_what_is_wrong(here, toy):
    report = json.loads(cogvideox("inspect", toy, "--json").stdout)
    assert report["ok"]
    assert "num_attention_heads: 48" in cogvideox("inspect", "5b").stdout
    (here / "empty").mkdir()
    cogvideox("inspect", "empty", code=1)


def test_convert_goes_there_and_back(here, toy):
    assert cogvideox("convert", toy, "copy", "--to", "diffusers").stdout == "copy\n"
    assert "exists already" in cogvideox("convert", toy, "copy", code=1).stderr
    cogvideox("generate", "a red circle", "--model", "copy", "--out", "v.mp4", *FAST)


def test_train_prints_its_settings_and_takes_overrides(here):
    done = cogvideox("train", "world-vae", "steps=7", "optim.lr=0.5", "--out", "elsewhere", "--dry-run")
    assert "steps: 7" in done.stdout and "out: elsewhere" in done.stdout and "lr: 0.5" in done.stdout
    assert "memory and time of this task are not predicted" in done.stdout
    assert "did you mean 'steps'" in cogvideox("train", "world-vae", "step=7", "--dry-run", code=2).stderr
    assert "did you mean 'world-vae'" in cogvideox("train", "world-va", code=2).stderr


def test_a_dry_run_of_a_chain_ends_with_the_time_of_all_its_runs(here):
    lines = cogvideox("train", "tiny", "--dry-run").stdout.splitlines()
    assert lines[0] == "name: tiny" and lines[-1].startswith("# all 7 runs: about ")
    assert lines[-1].endswith("; tiny/vae, tiny/text come on top")
    timed = [line.split(":")[0] for line in lines if line.startswith("# ") and ": time: " in line]
    assert timed == [f"# tiny/{name}" for name in ("coarse", "t2v", "i2v", "steps-16", "steps-8")]
    alone = cogvideox("train", "distil-tiny", "--dry-run").stdout.splitlines()[-1]
    assert alone.startswith("# all 2 runs: about") and "come on top" not in alone
    missing = cogvideox("train", "distil-2b", "--dry-run", code=2)
    assert "task.prompts.file prompts.txt: no such file" in missing.stderr


def test_the_judge_is_compared_with_the_truth(here):
    shown = cogvideox("world", "validate", "--n", "2", "--model", "tiny").stdout
    rows = {line.split("|")[1].strip(): line for line in shown.splitlines() if line.startswith("|")}
    assert rows["clean"].endswith("| 1.000 |") and "autoencoder of tiny" in rows
    assert "no such folder" in cogvideox("world", "validate", "--n", "1", "--model", "tniy", code=1).stderr


def test_rendering_over_somebody_elses_video_is_refused(here):
    (here / "mine").mkdir()
    (here / "mine/00001.mp4").write_bytes(b"holiday")
    refused = cogvideox("world", "render", "--n", "2", "--out", "mine", "--overwrite", code=1)
    assert "was not made here" in refused.stderr
    assert [file.name for file in (here / "mine").iterdir()] == ["00001.mp4"]
    assert (here / "mine/00001.mp4").read_bytes() == b"holiday"
    cogvideox("world", "render", "--n", "1", "--out", "ours")
    cogvideox("world", "render", "--n", "1", "--out", "ours", "--overwrite")


def test_the_world_is_rendered_and_judged(here):
    clips = cogvideox("world", "render", "--n", "3", "--out", "clips").stdout.split()
    assert clips == [f"clips/{i:05d}.mp4" for i in range(3)]
    lines = cogvideox("world", "judge", *clips, "--json").stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == clips
    shares = [check["holds"] for line in lines for check in json.loads(line)["checks"]]
    assert sum(shares) >= 0.8 * len(shares)
    assert cogvideox("world", "render", "--n", "2", "--out", "s.png").stdout == "s.png\n"
    assert cogvideox("world", "judge", "s.png", clips[0], code=3)


def test_the_rich_world_is_rendered_and_judged_by_its_record(here):
    words = ["world", "render", "--style", "rich", "--split", "held-out", "--frames", "9"]
    clip = cogvideox(*words, "--n", "1", "--out", "rich").stdout.strip()
    record = json.loads(Path("rich/00000.json").read_text())
    assert record["config"]["style"] == "rich"
    verdict = json.loads(cogvideox("world", "judge", clip, "--json").stdout)
    assert {check["kind"] for check in verdict["checks"]} >= {"count"}
    assert cogvideox(*words, "--n", "2", "--out", "rich.png").stdout == "rich.png\n"
    shown = cogvideox("world", "validate", "--n", "1", "--style", "rich", "--wrong").stdout
    assert "| front | all | refused |" in shown
    wrong = cogvideox("world", "render", "--style", "ritch", "--n", "1", "--out", "x.png", code=2).stderr
    assert "did you mean 'rich'" in wrong


def test_evaluate_prints_a_table_and_resumes(here, toy):
    words = ["evaluate", "--model", toy, "--prompts", "2", "--seeds", "1", "--out", "scores", "--steps", "1"]
    first = cogvideox(*words)
    verdicts = Path("scores/verdicts.jsonl").read_text()
    assert "|" in first.stdout and len(verdicts.splitlines()) == 2
    assert cogvideox(*words).stdout == first.stdout
    assert Path("scores/verdicts.jsonl").read_text() == verdicts
    assert "another" in cogvideox(*words[:-1], "2", code=2).stderr


def test_evaluate_refuses_verdicts_of_other_weights_at_the_same_place(here, tmp_path):
    folder = write_model_folder(tmp_path / "changing")
    words = [
        "evaluate",
        "--model",
        folder,
        "--prompts",
        "1",
        "--seeds",
        "1",
        "--out",
        "scores",
        "--steps",
        "1",
    ]
    cogvideox(*words)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.bias"] += 1
    save_file(tensors, file)
    assert "another files" in cogvideox(*words, code=2).stderr


def test_evaluate_takes_fewer_prompts_and_refuses_a_record_that_is_none(here, toy):
    words = ["evaluate", "--model", toy, "--seeds", "1", "--out", "scores", "--steps", "1", "--prompts"]
    cogvideox(*words, "2")
    assert json.loads(cogvideox(*words, "1", "--json").stdout)["rows"]
    Path("scores/evaluation.json").write_text("[]")
    assert "no record of an evaluation" in cogvideox(*words, "1", code=2).stderr


def test_the_record_names_weights_and_adapters(here, toy):
    from cogvideox.checkpoints import load_model
    from cogvideox.checkpoints.lora import add_lora, save_lora

    model = load_model(toy)
    for value in add_lora(model, rank=2, alpha=4):
        value.data.normal_(0, 0.5)
    save_lora(model, here / "mine.safetensors")
    cogvideox(
        "generate", "a circle", "--model", toy, "--lora", "mine.safetensors:0.5", "--out", "v.mp4", *FAST
    )
    record = json.loads(Path("v.json").read_text())["model"]
    weights = Path(toy) / "vae" / "diffusion_pytorch_model.safetensors"
    assert record["weights"]["vae/diffusion_pytorch_model.safetensors"] == sha256_of(weights)
    assert len(record["weights"]) == 3
    assert record["adapters"] == [
        {
            "name": "mine",
            "file": "mine.safetensors",
            "sha256": sha256_of("mine.safetensors"),
            "origin": "diffusers",
            "alpha_from": "metadata lora_adapter_metadata",
            "passed_over": [],
            "rank": [2],
            "alpha": [4.0],
            "scale": 0.5,
            "merged": False,
        }
    ]


def test_what_is_planned_is_what_is_made(here, toy, tmp_path):
    folder = Path(shutil.copytree(toy, tmp_path / "resized"))
    record = json.loads((folder / "cogvideox.json").read_text())
    record |= {"height": 48, "width": 32, "frames": 17, "fps": 5}
    (folder / "cogvideox.json").write_text(json.dumps(record))
    done = cogvideox("generate", "a red circle", "--model", folder, "--dry-run", "--json")
    plan = json.loads(done.stdout)["plan"]
    assert [plan[key] for key in ("height", "width", "frames", "fps")] == [48, 32, 17, 5]


def test_overwriting_without_metadata_takes_our_old_record_away(here, toy):
    words = ["generate", "a red circle", "--model", toy, "--out", "v.mp4", *FAST]
    cogvideox(*words)
    cogvideox(*words, "--overwrite", "--no-metadata")
    assert os.listdir() == ["v.mp4"]


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_cuda_then_mps_then_cpu(monkeypatch, cuda, mps, best):
    import torch

    from cogvideox.device import best_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == best


def test_flags_without_effect_warn(here, toy):
    Video(np.zeros((9, 32, 48, 3), np.uint8), 8.0).save("given.mp4")
    words = ["generate", "a circle", "--model", toy, "--dry-run"]
    done = cogvideox(*words, "--video", "given.mp4", "--continue", "--strength", "0.5")
    assert "warning: strength 0.5 has no effect" in done.stderr
    done = cogvideox(*words, "--guidance", "1", "--negative-prompt", "blue")
    assert "warning: negative_prompt 'blue' has no effect without guidance above 1" in done.stderr


# In a process of its own


def test_help_and_version_in_a_process():
    done = shell("--help")
    assert done.returncode == 0
    for name in ("generate", "convert", "inspect", "train", "evaluate", "world"):
        assert name in done.stdout
    assert shell("--version").stdout == f"cogvideox {__version__}\n"


def test_errors_in_a_process(tmp_path):
    done = shell("generate", "a\nred circle", "--sampler", "ddmi", "--out", "x.mp4", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: sampler 'ddmi'") and done.stderr.count("\n") == 1
    done = shell("generate", b"\xff\xfe".decode("utf-8", "surrogateescape"), "--out", "x.mp4", cwd=tmp_path)
    assert done.returncode == 2 and "not valid text" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_a_process_ends_with_130(tmp_path, toy):
    command = [
        sys.executable,
        "-m",
        "cogvideox",
        "generate",
        "a red circle",
        "--model",
        toy,
        "--out",
        "v.mp4",
    ]
    listens = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # also where tests run in the background of a shell
    with subprocess.Popen(
        [*command, "--steps", "1000"], cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=listens
    ) as child:
        assert b"9 frames of 32x48" in child.stderr.readline()  # checked; now it loads and draws
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
        child.wait(240)
    assert child.returncode == 130 and b"Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_python_loses_stops_the_work_at_the_next_report():
    from cogvideox.cli.terminal import verb
    from cogvideox.progress import progress

    reports = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    @verb
    def work():
        with progress("making") as show:
            show("denoise", 1, 3)
            with contextlib.suppress(KeyboardInterrupt):  # as a destructor does
                signal.raise_signal(signal.SIGINT)
            reports.append("went on")
            show("denoise", 2, 3)
            reports.append("never")

    try:
        for _ in range(2):  # and what was noted is not kept for the next verb
            with pytest.raises(typer.Exit) as ended:
                work()
            assert ended.value.exit_code == 130 and reports.pop() == "went on" and not reports
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform != "linux", reason="torch has expandable segments on Linux")
@pytest.mark.parametrize("name", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_grows_its_memory_unless_the_user_says_how(name, monkeypatch):
    for each in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(each, "")  # so that it is put back
        monkeypatch.delenv(each)
    if name:
        monkeypatch.setenv(name, "max_split_size_mb:64")
    seen, cli_app = [], sys.modules["cogvideox.cli.app"]
    monkeypatch.setattr(
        cli_app,
        "app",
        lambda: seen.append(
            [os.environ.get(each) for each in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")]
        ),
    )
    cli_app.main()
    own = "max_split_size_mb:64"
    expected = {None: ["expandable_segments:True", None], "PYTORCH_ALLOC_CONF": [own, None]}
    assert seen == [expected.get(name, [None, own])]


def test_keys_of_a_folder_that_is_no_studio(tmp_path):
    listed = CliRunner().invoke(app, ["keys", "list", "--out", str(tmp_path / "studoi")])
    assert listed.exit_code == 0 and not listed.stdout and "nobody has a key" in listed.stderr
    revoked = CliRunner().invoke(app, ["keys", "revoke", "ann", "--out", str(tmp_path / "studoi")])
    assert revoked.exit_code == 2 and "no folder of a studio" in revoked.stderr
    assert not [*tmp_path.iterdir()]
