"""Inspecting says what a thing is, how much it holds, and what is wrong, without making a model of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import inspect, save_model
from cogvideox.errors import CheckpointError
from support.models import small_model


def test_a_sound_folder_has_no_problems(tmp_path):
    model = small_model("1.5-5b-i2v", torch.bfloat16)
    report = inspect(save_model(model, tmp_path / "m"), check=True)
    assert report.ok, report.problems
    assert (report.kind, report.preset, report.task) == ("model folder", "1.5-5b-i2v", "i2v")
    part = report.tensor_sets[0]
    assert part.parameters == sum(p.numel() for p in model.transformer.parameters())
    assert part.bytes == 2 * part.parameters and part.dtypes == {"bfloat16": part.tensors}
    assert (
        json.loads(report.to_json())["ok"]
        and len(json.loads(report.to_json())["parts"]) == 2
        and "no problems" in report.to_text()
    )


def test_problems_are_listed_and_the_rest_is_still_told(tmp_path):
    path = save_model(small_model("5b"), tmp_path / "m")
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    report = inspect(path)
    assert not report.ok and len(report.tensor_sets) == 1 and "vae" in report.problems[0]
    assert "problem" in report.to_text()


def test_other_things_are_named(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").kind == "safetensors file"
    save_file(small_model("5b").vae.state_dict(), tmp_path / "vae.safetensors")
    alone = inspect(tmp_path / "vae.safetensors")
    assert alone.kind == "a VAE alone" and f"--vae {tmp_path / 'vae.safetensors'}" in alone.todo
    (tmp_path / "empty").mkdir()
    assert "nothing that is a checkpoint" in inspect(tmp_path / "empty").problems[0]
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect(tmp_path / "none")
