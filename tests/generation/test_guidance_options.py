"""Guidance variants on a real model: every way of running alike, saved calls really saved, bad requests refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions, Given, plan_run
from cogvideox.generation.pipeline import Explicit, run
from cogvideox.generation.preflight import request_of
from cogvideox.memory.offload import install
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.seconds import efforts
from cogvideox.transformer.calls import answering, skipping
from generation.test_engine import latents
from support.models import golden_model, golden_text, small_preset

OPTIONS = GenerateOptions(prompt="x", seed=42, steps=4, frames=9, modulation="layers", attention="torch")
DEMANDS = {
    "rescale": {"guidance_rescale": 0.7},
    "interval": {"guidance_start": 0.25, "guidance_stop": 0.75},
    "zero-star": {"guidance_rule": "zero-star"},
    "apg": {"guidance_rule": "apg", "apg_norm": 5},
    "stg": {"stg_scale": 1},
    "stg alone": {"stg_scale": 1, "guidance": 1},
    "all": {
        "guidance_rule": "apg",
        "guidance_rescale": 0.3,
        "guidance_start": 0.25,
        "stg_scale": 0.5,
        "stg_layers": (0, 1),
    },
}


def close(found, expected):
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("demand", DEMANDS)
def test_every_way_of_running_guides_alike(demand):
    options = OPTIONS.changed(**DEMANDS[demand])
    expected, _ = latents(options)
    assert not torch.equal(expected, latents(OPTIONS)[0])
    close(latents(options.changed(guidance_pair="sequence"))[0], expected)
    close(latents(options.changed(modulation="tables"))[0], expected)
    model = golden_model()
    install(model, torch.device("cpu"), stream=True)
    close(latents(options, model)[0], expected)


def test_demands_that_ask_for_nothing_give_the_same_bits():
    off = OPTIONS.changed(guidance_start=0, guidance_stop=1, stg_scale=0, guidance_rescale=0, apg_eta=1)
    assert torch.equal(latents(off)[0], latents(OPTIONS)[0])


@pytest.mark.parametrize("pair", ["batched", "sequence"])
def test_steps_outside_the_interval_run_one_branch(pair):
    model, batches = golden_model(), []
    model.transformer.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    latents(OPTIONS.changed(guidance_start=0.25, guidance_stop=0.75, guidance_pair=pair), model)
    assert batches == ([1, 2, 2, 1] if pair == "batched" else [1] * 6)


def test_guidance_of_one_runs_one_branch():
    model, batches = golden_model(), []
    model.transformer.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    latents(OPTIONS.changed(guidance=1), model)
    assert batches == [1] * 4


@pytest.mark.parametrize("in_place", [True, False])
def test_a_skipped_block_is_a_block_that_is_not_there(in_place):
    model = golden_model(num_layers=3).transformer
    inputs = torch.randn(3, 4, 3, 4, 6), torch.randn(3, 5, 24), torch.tensor([500] * 3)
    with torch.no_grad():
        plain = model(*inputs)
        with torch.set_grad_enabled(not in_place), skipping(model, [1]):
            with answering(("negative", "prompt", "skipped")):
                found = model(*inputs)
            with answering(("negative", "prompt", "prompt")):
                assert torch.allclose(model(*inputs), plain, atol=1e-6)
        assert "forward" not in vars(model.transformer_blocks[1])
        blocks = model.transformer_blocks
        model.transformer_blocks = torch.nn.ModuleList([blocks[0], blocks[2]])
        without = model(*inputs)
    torch.testing.assert_close(found[:2], plain[:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[2], without[2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[2], plain[2], atol=1e-3)


def test_the_record_says_what_was_demanded():
    model = golden_model()

    def record(**demands):
        plan = plan_run(model.spec, OPTIONS.changed(**demands))
        return run(model, plan, Given(), explicit=Explicit(**golden_text())).record.manifest()["run"]

    assert "guider" not in record() and record()["guidance"] == [6.0] * 4
    said = record(guidance_stop=0.5, stg_scale=0.5)
    assert said["guidance"] == [6.0, 6.0, 1.0, 1.0]
    guider = said["guider"]
    assert guider["rule"] == {"kind": "cfg"} and guider["stg"] == 0.5 and guider["stg_layers"] == [0]
    assert guider["branches"] == ["negative", "prompt", "skipped"] and guider["evaluations"] == 8


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        ({"guidance_start": 0.5, "guidance_stop": 0.25}, "guidance_start 0.5, guidance_stop 0.25"),
        ({"stg_scale": 1, "compile": True}, "stg_scale and compile"),
        ({"guidance_start": 0.5, "guidance_stop": 0.6}, "no one of 4 steps lies between"),
        ({"stg_scale": 1, "stg_layers": (2,)}, "stg_layers 2: the model has 2 blocks; choose 0 to 1"),
        ({"guidance_rule": "zero-star", "zero_steps": 4}, "zero_steps 4 of 4 steps"),
    ],
)
def test_guidance_that_cannot_be_is_refused(demands, message):
    with pytest.raises(ConfigError, match=message):
        plan_run(golden_model().spec, OPTIONS.changed(**demands))


@pytest.mark.parametrize(
    ("setting", "need"),
    [
        ({"apg_eta": 1.0}, "guidance_rule 'apg'"),
        ({"zero_steps": 2}, "guidance_rule 'zero-star'"),
        ({"stg_layers": (1,)}, "stg_scale"),
        ({"guidance": 1, "guidance_rescale": 0.7}, "guidance"),
        ({"guidance": 1, "guidance_rule": "apg"}, "guidance above 1"),
    ],
)
def test_demands_without_effect_are_said(setting, need):
    with pytest.warns(UserWarning, match=f"has no effect without {need}"):
        plan_run(golden_model().spec, OPTIONS.changed(**setting))


def prediction(**demands):
    spec = small_preset("5b")
    plan = plan_run(spec, GenerateOptions(prompt="x", steps=10, frames=9, height=64, width=96, **demands))
    return request_of(spec, plan, encoded=0, dtype=torch.float32, device="cuda")


def test_planners_count_a_third_branch_and_steps_without_guidance():
    one, two, three = (prediction(**each) for each in ({"guidance": 1}, {}, {"stg_scale": 1}))
    work = [MemoryPrediction(each).work("batched", "chunked").denoise for each in (one, two, three)]
    assert 1.3 * work[0] < work[1] and 1.3 * work[1] < work[2]
    in_turn = [MemoryPrediction(each).work("sequence", "chunked").denoise for each in (two, three)]
    assert in_turn[1] < 1.2 * in_turn[0] and in_turn[1] < work[2] / 2
    products = [efforts(each, 10)["denoise"].products for each in (one, two, three)]
    assert [each / products[0] for each in products] == pytest.approx([1, 2, 3])
    half = efforts(prediction(guidance_stop=0.5), 10)["denoise"].products
    assert half / products[0] == pytest.approx(1.5)
    assert replace(two, guided=False).branches == ("prompt",)


def test_flags_reach_the_record(tmp_path):
    words = ["generate", "a red circle", "--steps", "3", "--frames", "5", "--out", str(tmp_path / "a.mp4")]
    more = [
        "--model",
        "tiny-base",
        "--guidance-rule",
        "apg",
        "--apg-eta",
        "0.2",
        "--guidance-stop",
        "0.7",
        "--stg-scale",
        "0.5",
    ]
    done = CliRunner().invoke(app, words + more)
    assert done.exit_code == 0, done.stderr
    said = json.loads((tmp_path / "a.json").read_text())["run"]["guider"]
    assert said["rule"] == {"kind": "apg", "eta": 0.2, "norm": 0.0, "momentum": -0.5}
    assert said["stg_layers"] == [1] and said["evaluations"] == 7


@pytest.mark.parametrize(
    "name", ["guidance", "stg_scale", "apg_eta", "apg_norm", "tile_height", "tile_width"]
)
@pytest.mark.parametrize("value", [1e30, 1e308, 10**30])
def test_numbers_that_no_network_survives_are_refused_before_the_run(name, value):
    with pytest.raises(ConfigError, match=f"{name} .*must be|{name}: .*integer"):
        GenerateOptions.parse({"prompt": "x", name: value})


def test_a_negative_prompt_has_no_effect_on_a_model_that_is_made_without_guidance():
    asked = GenerateOptions(prompt="x", negative_prompt="blue", frames=9)
    with pytest.warns(UserWarning, match="negative_prompt 'blue' has no effect without guidance above 1"):
        plan_run(replace(golden_model().spec, guidance=1.0), asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_run(golden_model().spec, asked)
