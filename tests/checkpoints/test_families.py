"""Weights that this version does not run are named as what they are, by every verb that reads a model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import convert, find_spec, inspect, load_model
from cogvideox.errors import CheckpointError, CogVideoXError
from cogvideox.generation.preflight import model_folder
from support.models import write_model_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("base") / "model")


def bf16(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)


FILES = {
    "QVGen": {"a.w": torch.zeros(8, 8), "a.wquantizer.scale": torch.ones(8, 1)},
    "CogVideoX-Fun InP": {"patch_embed.proj.weight": bf16(3072, 33, 2, 2)},
    "Fun InP": {"patch_embed.proj.weight": bf16(3072, 264)},
    "Fun Control": {"patch_embed.proj.weight": bf16(3072, 32, 2, 2)},
    "a 2B model of 32 channels": {"patch_embed.proj.weight": bf16(1920, 32, 2, 2)},
    "Netflix VOID": {"patch_embed.proj.weight": bf16(3072, 384)},
    "ControlNet": {"controlnet_encode_first.0.weight": bf16(96, 192, 1, 1)},
    "taecvx": {"encoder.0.weight": bf16(64, 3, 3, 3), "decoder.1.weight": bf16(256, 16, 3, 3)},
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_run_are_named_by_every_verb(name, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(FILES[name], file)
    report = inspect(file, check=True)
    assert report.ok == (name == "taecvx") and name in report.to_text()  # a part that is used as it is
    verbs = (
        load_model,
        find_spec,
        lambda path: model_folder(str(path)),
        lambda path: convert(path, tmp_path / "out", "diffusers"),
    )
    for verb in verbs:
        with pytest.raises(CheckpointError, match=name):
            verb(file)


@pytest.mark.parametrize("name", ["a.gguf", "b.safetensors", "c.bin"])
def test_a_gguf_file_is_named_whatever_its_ending(name, tmp_path):
    file = tmp_path / name
    file.write_bytes(b"GGUF" + bytes(100))
    assert "GGUF" in inspect(file).to_text()
    for verb in (load_model, find_spec, lambda path: convert(path, tmp_path / "out", "diffusers")):
        with pytest.raises(CheckpointError, match="GGUF"):
            verb(file)


@pytest.mark.parametrize(
    ("part", "changes", "name"),
    [
        ("transformer", {"in_channels": 36}, "stacked mask"),
        (
            "transformer",
            {"in_channels": 32, "num_attention_heads": 30, "attention_head_dim": 64},
            "2B model of 32",
        ),
        ("transformer", {"in_channels": 21}, "in_channels 21"),
        ("transformer", {"_class_name": "CogVideoXControlnet"}, "ControlNet"),
        ("transformer", {"control_dim": 768}, "TheMatrix"),
        ("transformer", {"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ("text_encoder", {"quantization_config": "none"}, "quantised"),
        ("vae", {"quantization_config": {}}, "quantised"),
    ],
)
def test_folders_that_are_not_run_are_named_by_every_verb(part, changes, name, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "cogvideox.json").unlink()
    file = folder / part / "config.json"
    channels = {"out_channels": 16} if part == "transformer" else {}
    file.write_text(json.dumps({**json.loads(file.read_text()), **channels, **changes}))
    report = inspect(folder)
    assert not report.ok and name in report.to_text()
    verbs = [load_model, lambda path: convert(path, tmp_path / "out", "diffusers")]
    for verb in verbs + ([find_spec] if part != "text_encoder" else []):
        with pytest.raises(CogVideoXError, match=name):
            verb(folder)
