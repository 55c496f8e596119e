"""Inspecting says what a thing is, how much it holds, and what is wrong, without making a model of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import Adapter, Pair, convert, inspect, save_model, write_adapter
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


DISTILLED = {
    "config": {"task": {"kind": "distil", "start": "runs/teacher/model", "method": {"kind": "progressive"}}}
}


def test_a_distilled_model_says_what_it_is_made_for_and_who_taught_it(tmp_path):
    model = small_model("5b")
    model.spec = replace(model.spec, times=(999, 499), sampler="dpmpp_sde", guidance=1.0)
    folder = save_model(model, tmp_path / "m")
    (folder / "training.json").write_text(json.dumps(DISTILLED))
    report = inspect(folder)
    assert "  made for  2 steps (times 999, 499), sampler dpmpp_sde, guidance 1\n" in report.to_text()
    assert "  distilled from runs/teacher/model by progressive\n" in report.to_text()
    config = json.loads(report.to_json())["config"]
    assert config["sampling"] == {"steps": 2, "times": [999, 499], "sampler": "dpmpp_sde", "guidance": 1.0}
    assert config["distilled"] == {"teacher": "runs/teacher/model", "method": "progressive"}


def test_a_model_that_is_not_distilled_says_its_guidance(tmp_path):
    folder = save_model(small_model("5b"), tmp_path / "m")
    (folder / "training.json").write_text('{"config": {"task": {"kind": "diffusion", "start": "5b"}}}')
    report = inspect(folder)
    assert "  made for  guidance 6\n" in report.to_text() and "distilled" not in report.to_text()
    assert report.config["sampling"] == {"guidance": 6.0} and "distilled" not in report.config


@pytest.mark.parametrize("form", ["file", "folder", "sat"])
def test_an_adapter_says_what_is_recommended_for_it(tmp_path, form):
    pair = Pair(torch.ones(1, 32), torch.ones(32, 1), 1.0)
    file = write_adapter(Adapter({"transformer_blocks.0.attn1.to_q": pair}), tmp_path / "a")
    values = {"times": [999, 856, 665, 399], "guidance": 1.0, "scale": 0.5, "about": "of\nfew steps"}
    file.with_suffix(".json").write_text(json.dumps({"recommended": values}))
    (tmp_path / "a/training.json").write_text(json.dumps(DISTILLED))
    path = (
        convert(file, tmp_path / "sat", "sat")
        if form == "sat"
        else file
        if form == "file"
        else tmp_path / "a"
    )
    report = inspect(path)
    wanted = "made for  4 steps (times 999, 856, 665, 399), guidance 1, scale 0.5, about of\\nfew steps\n"
    assert wanted in report.to_text()
    assert json.loads(report.to_json())["config"]["recommended"] == values
    assert form == "sat" or "  distilled from runs/teacher/model by progressive\n" in report.to_text()


@pytest.mark.parametrize(
    ("training", "recommended"),
    [
        ("[]", 3),
        ('{"config": []}', "x"),
        ('{"config": {"task": {"kind": "distil", "method": [1]}}}', []),
        ("{", {}),
    ],
)
def test_what_others_wrote_beside_an_adapter_breaks_nothing(tmp_path, training, recommended):
    pair = Pair(torch.ones(1, 32), torch.ones(32, 1), 1.0)
    file = write_adapter(Adapter({"transformer_blocks.0.attn1.to_q": pair}), tmp_path / "a")
    file.with_suffix(".json").write_text(json.dumps({"recommended": recommended}))
    (tmp_path / "a/training.json").write_text(training)
    report = inspect(file)
    assert report.config["lora"]["layers"] == 1 and report.to_text()
    assert any("recommended is" in each for each in report.problems) == (recommended != {})
    assert any("training.json" in each for each in report.problems) == (training == "{")


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
