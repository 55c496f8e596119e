"""Overwriting replaces checkpoints and nothing else, least of all what is being read."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
import warnings

import pytest
import torch

from cogvideox.checkpoints import convert, load_model, save_model, write_adapter
from cogvideox.checkpoints.adapter import Adapter, Pair
from cogvideox.errors import OutputError
from cogvideox.files.atomic import atomic_file
from support.models import small_model
from support.processes import server


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(tmp_path):
    return save_model(small_model("5b"), tmp_path / "model")


@pytest.mark.parametrize("name", ["thesis.txt", "config.json"])
def test_a_folder_that_is_no_checkpoint_is_never_replaced(name, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_text('{"editor": "vim"}')
    for write in (
        lambda: convert(model, other, "sat", overwrite=True),
        lambda: convert(model, other, "diffusers", overwrite=True),
        lambda: save_model(small_model("2b"), other, overwrite=True),
    ):
        with pytest.raises(OutputError, match=f"no checkpoint: it holds {name}"):
            write()
    assert (other / name).read_text() == '{"editor": "vim"}'


def test_checkpoints_of_every_kind_are_replaced(model, tmp_path):
    adapter = Adapter({"transformer_blocks.0.attn1.to_q": Pair(torch.ones(1, 32), torch.ones(32, 1), 1.0)})
    sat, lora, out = tmp_path / "sat", tmp_path / "lora", tmp_path / "out"
    (tmp_path / "empty").mkdir()
    convert(model, tmp_path / "empty", "sat", overwrite=True)
    write_adapter(adapter, lora)
    convert(model, sat, "sat")
    for source, to in (
        (lora, "sat"),
        (lora, "diffusers"),
        (model, "sat"),
        (model, "diffusers"),
        (sat, "diffusers"),
    ):
        convert(source, out, to, overwrite=True)
    assert load_model(out, text=False).spec.name == "5b"


def test_what_is_read_is_never_written_over(model, tmp_path):
    before = content(model)
    tries = [(model, model, "diffusers"), (model, model, "sat"), (model / "vae", model, "sat"),
             (model, model / "vae", "sat"), (model / "vae", tmp_path, "sat")]  # fmt: skip
    for source, target, to in tries:
        with pytest.raises(OutputError, match="which is read"):
            convert(source, target, to, overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(model)
    with pytest.raises(OutputError, match="which is read"):
        convert(model, link, "sat", overwrite=True)
    assert content(model) == before
    assert convert(model, model / "as-sat", "sat").is_dir()  # a new place inside takes nothing away


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left"), RuntimeError("PytorchStreamWriter failed")]
)
def test_an_interrupted_file_leaves_nothing_and_the_old_one_whole(error, tmp_path):
    file = tmp_path / "x.pt"
    file.write_text("old")
    told = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError
    with pytest.raises(told), atomic_file(file, overwrite=True) as work:
        work.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"] and file.read_text() == "old"


@pytest.mark.parametrize(
    "name", ["notes.txt", "transformer/films/a.mp4", "old/model.safetensors", "vae/my_lora.safetensors"]
)
def test_files_of_others_beside_a_checkpoint_keep_it_from_being_replaced(name, model):
    file = model / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    with pytest.raises(OutputError, match=f"beside a checkpoint it holds {name}"):
        save_model(small_model("2b"), model, overwrite=True)
    assert file.read_text() == "precious" and load_model(model, text=False).spec.name == "5b"


def save_for_ever(target, ready):
    """``ready`` after the first save, which clears away what a kill before it has left."""
    models = [small_model("5b"), small_model("2b")]
    for model in itertools.cycle(models):
        save_model(model, target, overwrite=True)
        ready.set()


def test_a_model_that_is_saved_again_and_again_is_whole_after_every_kill(tmp_path):
    """SIGKILL and SIGTERM at random: a whole model stands under the name, and the next save leaves no litter."""
    target, rng, model = tmp_path / "model", random.Random(0), small_model("5b")
    save_model(model, target)
    context = server()
    for number in range(16):
        ready = context.Event()
        writer = context.Process(target=save_for_ever, args=(target, ready))
        writer.start()
        assert ready.wait(60)
        time.sleep(rng.uniform(0.02, 0.3))
        kill = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        os.kill(writer.pid, kill)
        writer.join(60)
        assert writer.exitcode, "it would save for ever"
        assert load_model(target, text=False, check=True).spec.name in ("2b", "5b")
        if kill == signal.SIGTERM:
            assert not list(tmp_path.glob(".*/new/transformer"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(model, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_index.json": {"_class_name": "WanPipeline"}},
        {"config.json": {"architectures": ["LlamaForCausalLM"]}},
        {"config.json": {"_class_name": "FluxTransformer2DModel"}},
        {"config.json": {"architectures": [1, None, {}]}},
    ],
)
def test_a_model_of_another_kind_is_never_replaced(config, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name, values in config.items():
        (other / name).write_text(json.dumps(values))
    (other / "model.safetensors").write_text("mine")
    before = content(other)
    for to in ("sat", "diffusers"):
        with pytest.raises(OutputError, match="no checkpoint"):
            convert(model, other, to, overwrite=True)
    assert content(other) == before


def test_a_whole_model_is_never_replaced_by_a_part_or_an_adapter(model, tmp_path):
    before = content(model)
    adapter = Adapter({"transformer_blocks.0.attn1.to_q": Pair(torch.ones(1, 32), torch.ones(32, 1), 1.0)})
    write_adapter(adapter, tmp_path / "lora")
    with pytest.raises(OutputError, match="holds a transformer and a vae that the new one has not"):
        convert(tmp_path / "lora", model, "diffusers", overwrite=True)
    assert content(model) == before


def test_how_weights_were_trained_goes_along_with_them(model, tmp_path):
    (model / "training.json").write_text("the run")
    (model / "vae" / "training.json").write_text("its VAE's run")
    sat = convert(model, tmp_path / "sat", "sat")
    for made in (
        sat,
        convert(sat, tmp_path / "back", "diffusers"),
        convert(model, tmp_path / "again", "diffusers"),
    ):
        assert (made / "training.json").read_text() == "the run"
        assert (made / "vae" / "training.json").read_text() == "its VAE's run"
    part = convert(model / "vae", tmp_path / "vae", "sat")
    assert (part / "vae" / "training.json").read_text() == "its VAE's run"
    assert not (part / "training.json").exists()


def test_a_record_of_training_that_is_replaced_with_its_weights_is_said(model, tmp_path):
    old = save_model(small_model("2b"), tmp_path / "old")
    (old / "training.json").write_text("the old run")
    with pytest.warns(
        UserWarning, match="training.json, how the replaced weights had been trained, is replaced"
    ):
        convert(model, old, "diffusers", overwrite=True)
    assert not (old / "training.json").exists()
    (model / "training.json").write_text("the run")
    (old / "training.json").write_text("another run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, old, "diffusers", overwrite=True)
    assert (old / "training.json").read_text() == "the run"
