"""A prompt that was read before needs no text encoder, and its embedding is the same, never a stale one."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints.tensors import read_file
from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.files.stored import WeightFile
from cogvideox.generation.job import Job, load
from cogvideox.generation.text_cache import TextCache, cache_folder
from cogvideox.memory import offload
from cogvideox.text import TextEmbedding
from cogvideox.video import read_video
from support.models import write_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model") / "model")


def loaded(folder, cache, **job):
    return load(Job(model=str(folder), device="cpu", metadata=False, text_cache=str(cache), **job), folder)


def reads_of_text(monkeypatch) -> list[str]:
    """The paths of text encoders that are read from now on."""
    read, paths = WeightFile.read, []

    def note(file, offset, memory):
        paths.extend([str(file.path)] if "text_encoder" in str(file.path) else [])
        read(file, offset, memory)

    monkeypatch.setattr(WeightFile, "read", note)
    return paths


def test_the_second_time_no_text_encoder_is_read_and_the_embedding_is_the_same(folder, tmp_path, monkeypatch):
    plain = cogvideox.load(folder, device="cpu").embed(["red", ""])
    paths = reads_of_text(monkeypatch)
    first = loaded(folder, tmp_path).embed(["red", ""])
    assert paths
    paths.clear()
    second = loaded(folder, tmp_path)
    again = second.embed(["red", ""])
    assert not paths
    for found in (first, again):
        assert torch.equal(found.values, plain.values)
        assert (found.tokens, found.budget, found.cut) == (plain.tokens, plain.budget, plain.cut)
    assert torch.equal(
        second.embed(["blue"]).values, cogvideox.load(folder, device="cpu").embed(["blue"]).values
    )
    assert paths


def test_the_command_gives_the_same_video_and_record(folder, tmp_path, monkeypatch):
    made = {}
    paths = reads_of_text(monkeypatch)
    for name, more in (
        ("plain", []),
        ("first", ["--text-cache", tmp_path / "c"]),
        ("second", ["--text-cache", tmp_path / "c"]),
    ):
        paths.clear()
        out = tmp_path / f"{name}.mp4"
        words = [
            "generate",
            "a red square moves",
            "--model",
            folder,
            "--steps",
            "2",
            "--seed",
            "1",
            "--device",
            "cpu",
        ]
        done = CliRunner().invoke(app, [str(each) for each in (*words, *more, "--out", out)])
        assert done.exit_code == 0, done.stderr
        made[name] = read_video(out).frames, json.loads(out.with_suffix(".json").read_text())["run"]["text"]
        assert bool(paths) == (name == "first")
    assert all((made[name][0] == made["plain"][0]).all() for name in made)
    assert made["plain"][1] == made["first"][1]
    read = {name: facts | {"source": "text cache"} for name, facts in made["plain"][1].items()}
    assert read and made["second"][1] == read  # the record says that no encoder was asked


@pytest.mark.parametrize("change", ["weights", "tokenizer", "dtype"])
def test_another_encoder_is_never_answered_from_the_cache(folder, tmp_path, monkeypatch, change):
    mine = shutil.copytree(folder, tmp_path / "mine")
    loaded(mine, tmp_path / "cache").embed(["red"])
    job = {}
    if change == "weights":
        file = mine / "text_encoder" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-2] ^= 1
        file.write_bytes(data)
    elif change == "tokenizer":
        with open(mine / "tokenizer" / "tokenizer_config.json", "a") as file:
            file.write(" ")
    else:
        job = {"dtype": "bfloat16"}
    paths = reads_of_text(monkeypatch)
    loaded(mine, tmp_path / "cache", **job).embed(["red"])
    assert paths


def test_a_damaged_entry_is_said_and_made_again(folder, tmp_path):
    expected = loaded(folder, tmp_path).embed(["red"]).values
    [entry] = tmp_path.glob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="read again"):
        assert torch.equal(loaded(folder, tmp_path).embed(["red"]).values, expected)
    assert torch.equal(loaded(folder, tmp_path).embed(["red"]).values, expected)


def test_the_folder_is_bounded_and_what_was_used_last_stays(tmp_path):
    embedding = TextEmbedding(torch.randn(1, 8, 24), [3], 8, [""])
    cache = TextCache(tmp_path, "encoder", bound=5000)
    others = [tmp_path / "model.safetensors", tmp_path / f"{'0' * 64}.safetensors"]
    for other in others:  # somebody's weights, older than all
        other.write_bytes(bytes(9000))
        os.utime(other, (0, 0))
    for number in range(8):
        cache.put(f"prompt {number}", embedding)
        os.utime(cache.file(f"prompt {number}"), (number, number))
    assert sum(file.stat().st_size for file in tmp_path.glob("text-*")) <= 5000
    assert all(other.stat().st_size == 9000 for other in others)
    assert cache.get("prompt 7") is not None and cache.get("prompt 0") is None
    assert not any(b"prompt" in file.read_bytes() for file in tmp_path.glob("text-*"))


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("off") is None and cache_folder("on") == tmp_path / "cogvideox" / "text"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a file"):
        cache_folder(str(tmp_path / "file"))


def test_the_text_encoder_runs_apart_and_gives_the_same(folder):
    """On a CPU too: read layer by layer, forgotten when it has answered."""
    expected = cogvideox.load(folder, device="cpu").embed(["red"]).values
    model = offload(cogvideox.load(folder, device="cpu", text_device="cpu"), "cpu", "resident", "cpu")
    for _ in range(2):
        assert torch.equal(model.embed(["red"]).values, expected)
        assert all(weight.is_meta for weight in model.text.model.parameters())
    with pytest.raises(ConfigError, match="in memory"):
        offload(cogvideox.load(folder, device="cpu"), "cpu", "resident", "cpu")


@pytest.mark.parametrize("damage", ["width", "nan"])
def test_numbers_that_cannot_be_right_are_read_again(folder, tmp_path, damage):
    expected = loaded(folder, tmp_path).embed(["red"]).values
    [file] = tmp_path.glob("text-*.safetensors")
    found = read_file(file)
    values = found["values"][..., :5] if damage == "width" else found["values"] * float("nan")
    save_file({"values": values.contiguous()}, file, found.metadata)
    with pytest.warns(UserWarning) if damage == "nan" else nullcontext():
        assert torch.equal(loaded(folder, tmp_path).embed(["red"]).values, expected)
    assert torch.equal(read_file(file)["values"], expected)
