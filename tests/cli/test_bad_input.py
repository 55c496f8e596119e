"""Every mistake ends in one line that says what, where and what to do; nothing is left half-written.

Each case is a command, the exit code, and words that the last line must hold. 1: a file, a checkpoint or the
disk is at fault. 2: another request is needed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.video import Video
from support.models import write_model_folder

G = "generate"
RUN = ["--model", "toy", "--steps", "1", "--out", "new.mp4"]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """A folder with good and bad files of every kind; the cases run inside it."""
    root = tmp_path_factory.mktemp("bench")
    write_model_folder(root / "toy")
    write_model_folder(root / "toy-i2v", "i2v")
    _write_media(root)
    _write_models(root)
    (root / "mine.mp4").write_text("mine")
    (root / "old.json").write_text("mine")
    (root / "old").mkdir()
    (root / "note.txt").write_text("hello")
    return root


def _write_media(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(root / "good.png")
    whole = (root / "good.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").write_bytes(b"")
    (root / "words.png").write_text("not a picture")
    Image.new("1", (20_000, 20_000)).save(root / "bomb.png")
    Image.new("1", (8000, 8000)).save(root / "large.png")
    (root / "vector.svg").write_text("<svg/>")
    movie = Video(pixels, 8.0).save(root / "good.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(movie[: len(movie) // 3])
    (root / "empty.mp4").write_bytes(b"")
    (root / "words.mp4").write_text("not a video")
    (root / "list.m3u8").write_text("#EXTM3U\ngood.mp4\n")


def _write_models(root: Path) -> None:
    def model(name: str) -> Path:
        return Path(shutil.copytree(root / "toy", root / name))

    def change(name: str, file: str, edit) -> None:
        place = model(name) / file
        tensors = load_file(place)
        edit(tensors)
        save_file(tensors, place)

    shutil.rmtree(model("no-transformer") / "transformer")
    shutil.rmtree(model("no-vae") / "vae")
    shutil.rmtree(model("no-text") / "text_encoder")
    shutil.rmtree(model("no-tokenizer") / "tokenizer")
    (model("no-index") / "model_index.json").unlink()
    (model("no-weights") / WEIGHTS).unlink()
    (model("bad-json") / "transformer/config.json").write_text("{")
    (model("text-weights") / WEIGHTS).write_text("not weights")
    (model("empty-weights") / WEIGHTS).write_bytes(b"")
    for name, file in (("cut", WEIGHTS), ("cut-vae", VAE)):
        place = model(name) / file
        place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    place = model("lying") / WEIGHTS
    place.write_bytes((2**60).to_bytes(8, "little") + place.read_bytes()[8:])
    first = "transformer_blocks.0.attn1.to_q.weight"
    change("misshaped", WEIGHTS, lambda t: t.update({first: torch.zeros(3, 3)}))
    change("missing", WEIGHTS, lambda t: t.pop(first))
    change("surplus", WEIGHTS, lambda t: t.update(more=torch.zeros(2)))
    change("nan", WEIGHTS, lambda t: t[first].fill_(float("nan")))
    change("nan-vae", VAE, lambda t: [v.fill_(float("inf")) for k, v in t.items() if "decoder.conv_out" in k])
    place = model("typed") / "transformer/config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"num_layers": "many"}))
    (model("pickled") / WEIGHTS).rename(root / "pickled" / "transformer" / "diffusion_pytorch_model.bin")
    save_file({"a": torch.zeros(2)}, root / "lora.safetensors")
    pair = {"lora_A": torch.zeros(2, 64), "lora_B": torch.zeros(64, 2)}
    silent = {f"transformer.transformer_blocks.0.attn1.to_q.{k}.weight": v for k, v in pair.items()}
    save_file(silent, root / "silent.safetensors")
    (root / "cut.safetensors").write_bytes(b"\x10")
    (root / "empty-folder").mkdir()


def case(code: int, words: str, *command: str):
    return pytest.param(list(command), code, words, id=f"{len(CASES):02d}-{words.replace(' ', '-')[:40]}")


CASES: list = []
for code, words, command in [
    # prompts
    (2, "prompt: missing", [G, *RUN]),
    (2, "prompt: empty", [G, "", *RUN]),
    (2, "prompt: empty", [G, " \t ", *RUN]),
    (2, "NUL byte at position 1", [G, "a\0b", *RUN]),
    (2, "NUL byte", [G, "a", "--negative-prompt", "\0", *RUN]),
    (2, "not valid text", [G, "a\udcff", *RUN]),
    (2, "10000 words", [G, "word " * 10_000, *RUN]),
    (2, "shorten it", [G, "x" * 1_000_000, *RUN]),
    (2, "10000 words", [G, "a", "--negative-prompt", "word " * 10_000, *RUN]),
    (2, "given twice", [G, "a", "--prompt", "b", *RUN]),
    # sizes
    (2, "height 33", [G, "a", "--height", "33", *RUN]),
    (2, "width 47", [G, "a", "--width", "47", *RUN]),
    (2, "height 0", [G, "a", "--height", "0", *RUN]),
    (2, "height -16", [G, "a", "--height", "-16", *RUN]),
    (2, "width 100000", [G, "a", "--width", "100000", *RUN]),
    (2, "invalid value", [G, "a", "--width", "wide", *RUN]),
    (2, "invalid value", [G, "a", "--width", "32.5", *RUN]),
    # frames, seconds, rates
    (2, "frames 0", [G, "a", "--frames", "0", *RUN]),
    (2, "frames -5", [G, "a", "--frames", "-5", *RUN]),
    (2, "frames 1000000", [G, "a", "--frames", "1000000", *RUN]),
    (2, "frames 9 and seconds 1", [G, "a", "--frames", "9", "--seconds", "1", *RUN]),
    (2, "seconds", [G, "a", "--seconds", "0", *RUN]),
    (2, "seconds", [G, "a", "--seconds", "nan", *RUN]),
    (2, "seconds", [G, "a", "--seconds", "inf", *RUN]),
    (2, "seconds 1e+06", [G, "a", "--seconds", "1000000", *RUN]),
    (2, "fps", [G, "a", "--fps", "0", *RUN]),
    (2, "fps", [G, "a", "--fps", "-8", *RUN]),
    (2, "fps 100000", [G, "a", "--fps", "100000", *RUN]),
    (2, "fps", [G, "a", "--fps", "nan", *RUN]),
    (2, "seconds 3000", [G, "a", "--seconds", "3000", *RUN]),
    (2, "fps 0.0001", [G, "a", "--fps", "0.0001", *RUN]),
    (2, "no step is left", [G, "a", "--video", "good.mp4", *RUN]),
    (2, "no step is left", [G, "a", "--video", "good.mp4", "--strength", "0.001", "--dry-run", *RUN]),
    # settings
    (2, "did you mean 'ddim'", [G, "a", "--sampler", "dimm", *RUN]),
    (2, "guidance_schedule", [G, "a", "--guidance-schedule", "sine", *RUN]),
    (2, "previous", [G, "a", "--previous", "fixed", *RUN]),
    (2, "did you mean 'float16'", [G, "a", "--dtype", "float15", *RUN]),
    (2, "device 'tpu'", [G, "a", "--device", "tpu", *RUN]),
    (2, "steps", [G, "a", "--model", "toy", "--out", "new.mp4", "--steps", "0"]),
    (2, "steps 5000", [G, "a", "--model", "toy", "--out", "new.mp4", "--steps", "5000"]),
    (2, "guidance", [G, "a", "--guidance", "-1", *RUN]),
    (2, "guidance", [G, "a", "--guidance", "nan", *RUN]),
    (2, "guidance", [G, "a", "--guidance", "inf", *RUN]),
    (2, "seed", [G, "a", "--seed", "-1", *RUN]),
    (2, "strength", [G, "a", "--video", "good.mp4", "--strength", "2", *RUN]),
    (2, "strength", [G, "a", "--video", "good.mp4", "--strength", "0", *RUN]),
    (2, "without --video", [G, "a", "--strength", "0.5", *RUN]),
    (2, "--continue", [G, "a", "--continue", *RUN]),
    (2, "no such option", [G, "a", "--guidence", "3", *RUN]),
    (2, "give one of them", [G, "a", "--image", "good.png", "--video", "good.mp4", *RUN]),
    # images
    (2, "no such file", [G, "a", "--image", "gone.png", *RUN]),
    (2, "damaged image", [G, "a", "--image", "cut.png", *RUN]),
    (2, "is empty", [G, "a", "--image", "empty.png", *RUN]),
    (2, "not an image", [G, "a", "--image", "words.png", *RUN]),
    (2, "not an image", [G, "a", "--image", "vector.svg", *RUN]),
    (2, "not an image", [G, "a", "--image", "good.mp4", *RUN]),
    (2, "the limit", [G, "a", "--image", "bomb.png", *RUN]),
    (2, "8000x8000", [G, "a", "--image", "large.png", *RUN]),
    (2, "a folder", [G, "a", "--image", "old", *RUN]),
    (2, "device or pipe", [G, "a", "--image", "/dev/zero", *RUN]),
    (2, "cannot be opened", [G, "a", "--image", "a\0.png", *RUN]),
    # videos
    (2, "no such file", [G, "a", "--video", "gone.mp4", *RUN]),
    (2, "cut.mp4", [G, "a", "--video", "cut.mp4", *RUN]),
    (2, "is empty", [G, "a", "--video", "empty.mp4", *RUN]),
    (2, "not a video", [G, "a", "--video", "words.mp4", *RUN]),
    (2, "not a video", [G, "a", "--video", "list.m3u8", *RUN]),
    (2, "not a video", [G, "a", "--video", "good.png", *RUN]),
    (2, "device or pipe", [G, "a", "--video", "/dev/zero", *RUN]),
    (2, "frames 20", [G, "a", "--video", "good.mp4", "--frames", "20", *RUN]),
    # checkpoints
    (1, "no such folder", [G, "a", *RUN, "--model", "gone"]),
    (1, "model_index.json", [G, "a", *RUN, "--model", "empty-folder"]),
    (1, "model_index.json", [G, "a", *RUN, "--model", "no-index"]),
    (1, "is a file", [G, "a", *RUN, "--model", "note.txt"]),
    (1, "not a name", [G, "a", *RUN, "--model", "a\0b"]),
    (1, "transformer", [G, "a", *RUN, "--model", "no-transformer"]),
    (1, "vae", [G, "a", *RUN, "--model", "no-vae"]),
    (1, "text_encoder", [G, "a", *RUN, "--model", "no-text"]),
    (1, "tokenizer", [G, "a", *RUN, "--model", "no-tokenizer"]),
    (1, "no-weights", [G, "a", *RUN, "--model", "no-weights"]),
    (1, "config.json", [G, "a", *RUN, "--model", "bad-json"]),
    (1, "text-weights", [G, "a", *RUN, "--model", "text-weights"]),
    (1, "empty-weights", [G, "a", *RUN, "--model", "empty-weights"]),
    (1, "cut/transformer", [G, "a", *RUN, "--model", "cut"]),
    (1, "cut-vae/vae", [G, "a", *RUN, "--model", "cut-vae"]),
    (1, "lying", [G, "a", *RUN, "--model", "lying"]),
    (1, "to_q", [G, "a", *RUN, "--model", "misshaped"]),
    (1, "to_q", [G, "a", *RUN, "--model", "missing"]),
    (1, "more", [G, "a", *RUN, "--model", "surplus"]),
    (1, "NaN", [G, "a", *RUN, "--model", "nan"]),
    (1, "NaN", [G, "a", *RUN, "--model", "nan-vae"]),
    (2, "num_layers", [G, "a", *RUN, "--model", "typed"]),
    (1, "pickled", [G, "a", *RUN, "--model", "pickled"]),
    (2, "image", [G, "a", *RUN, "--model", "toy-i2v"]),
    (1, "no such file", [G, "a", *RUN, "--lora", "gone.safetensors"]),
    (1, "lora.safetensors", [G, "a", *RUN, "--lora", "lora.safetensors"]),
    (1, "cut.safetensors", [G, "a", *RUN, "--lora", "cut.safetensors"]),
    (2, "is not a scale", [G, "a", *RUN, "--lora", "lora.safetensors:much"]),
    (1, "--lora-alpha", [G, "a", *RUN, "--lora", "silent.safetensors"]),
    (1, "convert: --alpha", ["convert", "tiny", "out", "--lora", "silent.safetensors"]),
    (2, "without --lora", [G, "a", *RUN, "--lora-alpha", "8"]),
    (2, "between", [G, "a", *RUN, "--lora", "lora.safetensors:nan"]),
    # outputs
    (1, "exists already", [G, "a", *RUN, "--out", "mine.mp4"]),
    (1, "old.json: exists already", [G, "a", *RUN, "--out", "old.mp4"]),
    (1, "good.gif", [G, "a", *RUN, "--out", "good.avi"]),
    (1, "no file ending", [G, "a", *RUN, "--out", "old"]),
    (1, "is a file, not a folder", [G, "a", *RUN, "--out", "note.txt/new.mp4"]),
    (1, "NUL", [G, "a", *RUN, "--out", "a\0.mp4"]),
    (1, "cannot be written", [G, "a", *RUN, "--out", "/proc/new.mp4", "--no-metadata"]),
    (1, "File name too long", [G, "a", *RUN, "--out", "n" * 300 + ".mp4"]),
    # batches
    (2, "no such file", [G, "--batch", "gone.jsonl", "--model", "toy", "--out", "many"]),
    (2, "holds no prompts", [G, "--batch", "empty.png", "--model", "toy", "--out", "many"]),
    (2, "not UTF-8", [G, "--batch", "good.png", "--model", "toy", "--out", "many"]),
    # other verbs
    (1, "no such file", ["convert", "gone", "new"]),
    (1, "exists already", ["convert", "toy", "old"]),
    (2, "did you mean 'diffusers'", ["convert", "toy", "new", "--to", "difusers"]),
    (2, "no such model", ["convert", "toy", "new", "--preset", "6b"]),
    (1, "note.txt", ["convert", "note.txt", "new"]),
    (1, "no such folder", ["inspect", "gone"]),
    (2, "did you mean 'world-vae'", ["train", "world-vea"]),
    (2, "unknown setting", ["train", "world-vae", "nosuch=1"]),
    (2, "key.path=value", ["train", "world-vae", "steps"]),
    (2, "steps", ["train", "world-vae", "steps=many"]),
    (2, "before the GAN loss begins", ["train", "table1-b-gan", "steps=60"]),
    (2, "gone.yaml", ["train", "gone.yaml"]),
    (2, "is 2 processes, started: 1", ["train", "world-vae", "mesh.shard=2"]),
    (2, "mesh.context", ["train", "world-vae", "mesh.context=0"]),
    (2, "suite 'vbench'", ["evaluate", "--suite", "vbench"]),
    (1, "no such folder", ["evaluate", "--model", "gone", "--out", "many"]),
    (2, "no such file", ["world", "judge", "gone.mp4"]),
    (2, "missing", ["world", "judge", "good.mp4"]),
    (2, "split", ["world", "render", "--split", "nosuch", "--out", "new.png"]),
    (2, "name a folder", ["world", "render", "--out", "new.mp4"]),
    (1, "exists already", ["world", "render", "--out", "good.png", "--n", "1"]),
    (2, "without --lora", ["studio", "--lora-alpha", "4"]),
    (2, "write NAME=PATH", ["studio", "--lora", "style.safetensors"]),
    (2, "belong together", ["serve", "--c2pa-key", "key.pem"]),
    (2, "stepz", ["studio", "--limit", "stepz=1"]),
    (2, "--allow-host", ["studio", "--host", "0.0.0.0"]),
    (2, "is no name", ["serve", "--allow-host", "https://video.example.org"]),
    (2, "is no name", ["serve", "--webhook-host", "https://hooks.example.org/x"]),
    (2, "both must be", ["keys", "create", "ann", "--queued", "99999999999999999999"]),
]:
    CASES.append(case(code, words, *command))


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("command, code, words", CASES)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(bench, monkeypatch, command, code, words):
    monkeypatch.chdir(bench)
    before = snapshot(bench)
    done = CliRunner().invoke(app, command)
    shown = f"exit {done.exit_code}\n{done.stdout}\n{done.stderr}\n{done.exception!r}"
    assert done.exit_code == code, shown
    if command[0] != "inspect":
        assert done.stdout == "", shown
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(errors) == 1 and done.stderr.rstrip().endswith(errors[0]), shown
    assert words.replace("good.gif", ".gif") in errors[0] and len(errors[0]) < 700, shown
    assert "Traceback" not in shown and "unexpected" not in errors[0], shown
    assert snapshot(bench) == before, shown


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", ["new.mp4", "new.gif", "new.png"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_the_real_write(bench, monkeypatch, name, call):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(bench)
    before = snapshot(bench)
    monkeypatch.setattr(os, call, full)
    done = CliRunner().invoke(app, [G, "a", *RUN, "--out", name])
    monkeypatch.undo()
    assert done.exit_code == 1 and "No space left on device" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    assert snapshot(bench) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_called_a_pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for words in (["inspect", "pipe"], ["convert", "pipe", "new"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1 and "pipe: a pipe or a device, not a folder" in done.stderr, words
