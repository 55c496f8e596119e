"""Lists of times, and settings that come with an adapter or under a name: found, overruled, said."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cogvideox.checkpoints import load_lora, load_model, unload_lora
from cogvideox.checkpoints.adapter_settings import recommended_file
from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions, generate, plan_run
from cogvideox.generation.batch_file import read_items
from cogvideox.generation.job import Job, settled
from cogvideox.generation.recommended import (
    SETTINGS_PRESETS,
    Recommended,
    called,
    merged,
    read_adapter_flag,
    read_recommended,
    write_recommended,
)
from cogvideox.strength import Strength
from generation.test_engine import PLAIN, latents
from support.models import golden_model

TDM = (999, 856, 665, 399)


def adapter(folder, name="few.safetensors", **recommended):
    """A real adapter of the shipped model, and settings beside it."""
    path = folder / name
    rows = {"lora_A": torch.zeros(2, 192), "lora_B": torch.zeros(192, 2)}
    tensors = {
        f"transformer.transformer_blocks.0.attn1.to_q.{role}.weight": each for role, each in rows.items()
    }
    save_file(
        tensors,
        path,
        metadata={"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 2})},
    )
    if recommended:
        write_recommended(path, Recommended(**recommended), overwrite=True)
    return path


# times


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_sde"])
def test_evenly_spaced_times_are_the_steps_that_they_list(sampler):
    times = golden_model().schedule.timesteps(4)
    found, _ = latents(PLAIN.changed(sampler=sampler, times=times))
    expected, _ = latents(PLAIN.changed(sampler=sampler, previous="corrected"))
    assert torch.equal(found, expected)


def test_times_make_the_steps_and_reach_the_network():
    model, seen = golden_model(), []
    model.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[2].unique().tolist()))
    options = PLAIN.changed(times=TDM[:3], guidance=1)
    assert options.steps == 3 and plan_run(model.spec, options).steps == 3
    latents(options, model)
    assert seen == [[999], [856], [665]]


@pytest.mark.parametrize("value", ["999,856,665,399", [999, 856, 665, 399], ["999,856", "665,399"], TDM])
def test_times_are_written_as_numbers_with_commas(value):
    assert GenerateOptions.parse({"prompt": "x", "times": value}).times == TDM


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"times": (999, 999)}, "times 999, 999: .* let the times fall"),
        ({"times": (1000, 5)}, "times 1000: the schedule has the times 0 to 999"),
        ({"times": (999, -1)}, "times -1: the schedule has"),
    ],
)
def test_times_that_cannot_be_are_refused_before_weights_are_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_run(golden_model().spec, PLAIN.changed(**settings))


def test_steps_beside_times_are_refused():
    with pytest.raises(ConfigError, match="steps beside times 999,856,665,399: .* give one of them"):
        PLAIN.changed(times=TDM).changed(steps=7)
    with pytest.raises(ConfigError, match="steps beside times"):
        merged({"steps": 4, "times": "999,5"}, "", [])
    with pytest.raises(ConfigError, match="times.1: Input should be a valid integer"):
        GenerateOptions.parse({"times": "999,x"})


@pytest.mark.parametrize(
    ("own", "settings", "expected"),
    [
        (
            TDM,
            {"previous": "released"},
            ["previous 'released' has no effect with times: each step ends at the next"],
        ),
        ((), {"previous": "released", "times": TDM}, ["previous 'released' has no effect with times"]),
        ((), {"previous": "released"}, []),
        (TDM, {"previous": "corrected"}, []),
        (TDM, {}, []),
    ],
)
def test_ends_of_steps_that_times_do_not_have_are_warned_of(own, settings, expected):
    """``own``: the times of the model."""
    spec = replace(golden_model().spec, times=own)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        plan_run(spec, GenerateOptions(frames=9, **settings))
    texts = [str(each.message) for each in seen]
    assert len(texts) == len(expected) and all(map(str.startswith, texts, expected)), texts


# recommended settings


def test_settings_beside_an_adapter_are_read_as_they_were_written(tmp_path):
    path = adapter(tmp_path, times=TDM, guidance=1.0, sampler="dpm", scale=0.5, about="four steps")
    found = read_recommended(path)
    assert found == Recommended(times=TDM, guidance=1.0, sampler="dpmpp_sde", scale=0.5, about="four steps")
    assert json.loads((tmp_path / "few.json").read_text())["recommended"]["times"] == list(TDM)
    assert read_adapter_flag(str(path)) == (str(path), Strength.of(0.5))
    assert read_adapter_flag(f"{path}:2") == (str(path), Strength.of(2))
    (tmp_path / "peft").mkdir()
    inside = adapter(tmp_path / "peft", "adapter_model.safetensors")
    assert recommended_file(tmp_path / "peft") == inside.with_suffix(".json")


def test_a_file_of_somebody_else_says_nothing(tmp_path):
    path = adapter(tmp_path)
    assert read_recommended(path) is None and read_adapter_flag(str(path))[1] == Strength()
    path.with_suffix(".json").write_text('{"steps": 4}')
    assert read_recommended(path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"recommended": 4}', "recommended is 4; write settings"),
        (
            '{"recommended": {"stepz": 4}}',
            "few.json: recommended: stepz: unknown setting .did you mean 'steps'",
        ),
        ('{"recommended": {"guidance": -1}}', "few.json: recommended: guidance"),
        ('{"recommended": {"times": [5, 9]}}', "few.json: recommended: times 5, 9: .* let the times fall"),
        (
            '{"recommended": {"times": [9], "steps": 4}}',
            "few.json: recommended: steps beside times 9: .* give one",
        ),
        ("{", "few.json"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, text, message):
    path = adapter(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recommended(path)


def test_what_a_user_asks_for_wins_over_a_preset_and_that_over_an_adapter(tmp_path):
    path = adapter(tmp_path, steps=8, guidance=3.0, sampler="dpm-ode", previous="corrected")
    job = Job(adapters=((str(path), 1.0),), preset="tdm-2b")
    said, values = settled(job, {"prompt": "x", "sampler": "dpmpp_sde"})
    assert values == {
        "prompt": "x",
        "sampler": "dpmpp_sde",
        "times": TDM,
        "guidance": 1.0,
        "previous": "corrected",
    }
    assert said.recommended == {
        "times": "preset tdm-2b",
        "guidance": "preset tdm-2b",
        "previous": f"adapter {path}",
    }
    _, own = settled(job, {"steps": 20})
    assert own["steps"] == 20 and "times" not in own


def test_an_adapter_that_python_puts_on_brings_its_settings(tmp_path):
    model = load_model("tiny-base", device="cpu")
    load_lora(model, adapter(tmp_path, times=TDM[:2], guidance=1.0, scale=0.5))
    assert model.adapters[0]["scale"] == 0.5
    video = generate(model, "a red circle", seed=3, frames=1)
    assert video.manifest["config"]["times"] == [999, 856] and video.manifest["config"]["guidance"] == 1.0
    same = generate(model, "a red circle", seed=3, frames=1, times=TDM[:2], guidance=1)
    assert np.array_equal(video.frames, same.frames)
    again = generate(model, GenerateOptions(prompt="a red circle", seed=3, frames=1, times=TDM[:2]))
    assert np.array_equal(video.frames, again.frames)
    with pytest.warns(UserWarning, match="steps 3: adapter few was made for times 999,856 with guidance 1"):
        other = generate(model, "a red circle", seed=3, frames=1, steps=3)
    assert other.manifest["config"]["steps"] == 3 and other.manifest["config"]["guidance"] == 1.0
    unload_lora(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = generate(model, "a red circle", seed=3, frames=1, steps=3)
    assert plain.manifest["config"]["guidance"] == 2.0


def test_settings_that_cannot_be_are_refused_before_python_puts_an_adapter_on(tmp_path):
    model, path = golden_model(), adapter(tmp_path, "bad.safetensors")
    for text, message in (("{", "bad.json"), ('{"recommended": {"scale": "x"}}', "x")):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_lora(model, path)
        assert model.adapters == []


def test_adapters_that_disagree_are_refused_until_somebody_decides(tmp_path):
    pair = [
        (str(adapter(tmp_path, f"{name}.safetensors", guidance=value)), 1.0)
        for name, value in (("a", 1), ("b", 2))
    ]
    a, b = (path for path, _ in pair)
    with pytest.raises(ConfigError) as refused:
        merged({}, "", pair)
    assert str(refused.value) == (
        f"guidance: adapter {a} is made for 1.0, adapter {b} for 2.0; give --guidance to say which counts"
    )
    assert merged({"guidance": 5}, "", pair) == ({"guidance": 5}, {})
    assert merged({}, "", pair[:1] * 2)[0] == {"guidance": 1.0}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"steps": 50, "guidance": 6},
            "steps 50, guidance 6: adapter .*few.safetensors was made for times 999,856",
        ),
        ({"times": "999,500"}, "times 999,500: adapter"),
        ({"steps": 4}, "steps 4: adapter"),  # four even steps are not these four
        ({"sampler": "dpm"}, "sampler dpmpp_sde: adapter .* with guidance 1, and others may break"),
        ({"times": "999,856,665,399", "guidance": 0, "sampler": "ddim", "seed": 4}, None),
        ({"steps": "many"}, None),  # refused where options are checked
    ],
)
def test_an_adapter_of_few_steps_that_is_given_others_says_so(tmp_path, given, told):
    few = [(str(adapter(tmp_path, times=TDM, guidance=1.0, sampler="ddim")), Strength())]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        merged(given, "", few)
        merged(given, "", [(str(adapter(tmp_path, "style.safetensors", guidance=5.0)), Strength())])
    texts = [str(each.message) for each in seen]
    assert len(texts) == bool(told) and all(re.match(str(told), text) for text in texts), texts


def test_results_of_training_are_told_apart_by_their_folders(tmp_path):
    """Every run writes ``pytorch_lora_weights.safetensors`` into a folder called model."""
    pair = []
    for run, value in (("x", 1), ("y", 2)):
        (tmp_path / run / "model").mkdir(parents=True)
        adapter(tmp_path / run / "model", "pytorch_lora_weights.safetensors", guidance=value)
        pair.append((str(tmp_path / run / "model"), Strength()))
    assert merged({}, "", pair[:1])[1] == {"guidance": f"adapter {tmp_path}/x/model"}
    with pytest.raises(ConfigError, match="x/model is made for 1.0, adapter .*y/model for 2.0"):
        merged({}, "", pair)


def test_an_adapter_of_the_hub_is_called_as_it_is_there(tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    assert (
        called(adapter(folder)) == "owner/name:few.safetensors" and called("runs/x/model") == "runs/x/model"
    )


def test_lines_of_a_batch_have_presets_and_adapters_of_their_own(tmp_path):
    path = adapter(tmp_path, steps=8)
    lines = [{"prompt": "a"}, {"prompt": "a", "preset": "tdm-2b"}, {"prompt": "a", "lora": str(path)}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plain, preset, few = read_items(tmp_path / "p.jsonl", tmp_path, {}, Job())
    assert (
        plain.settings == {"prompt": "a"} and preset.settings["times"] == TDM and few.settings["steps"] == 8
    )
    assert few.job.recommended == {"steps": f"adapter {path}"} and len({plain.key, preset.key, few.key}) == 3


@pytest.mark.parametrize("name", SETTINGS_PRESETS)
def test_presets_are_options_that_can_be(name):
    _, values = settled(Job(preset=name), {"prompt": "x"})
    options = GenerateOptions.parse(values)
    plan_run(golden_model().spec, options.changed(frames=9))
    assert options.guidance == 1 and options.steps == {"tdm-2b": 4, "blade-5b": 8}[name]


def cogvideox(*words: object, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def test_the_record_and_the_terminal_say_where_settings_come_from(tmp_path):
    path = adapter(tmp_path)
    cogvideox("recommend", path, "--times", "999,500", "--guidance", 1, "--scale", 0.25)
    assert cogvideox("recommend", path).stdout.splitlines() == [
        "scale: 0.25",
        "times: [999, 500]",
        "guidance: 1.0",
    ]
    assert "exists" in cogvideox("recommend", path, "--steps", 3, code=1).stderr
    ask = ["generate", "a red circle", "--frames", 5, "--lora", path, "--out", tmp_path / "a.mp4"]
    done = cogvideox(*ask, "--sampler", "dpm-ode")
    assert f"adapter {path} recommends times 999,500, guidance 1" in done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["run"]["recommended"] == {"times": "few.safetensors", "guidance": "few.safetensors"}
    assert record["run"]["times"] == [999, 500] and record["model"]["adapters"][0]["scale"] == 0.25


def test_a_preset_says_what_it_is_made_for():
    done = cogvideox("generate", "a red circle", "--preset", "tdm-2b", "--dry-run", "--json")
    assert "made for --model 2b with --lora of Luo-Yihong/TDM_CogVideoX-2B_LoRA; none is given" in done.stderr
    assert json.loads(done.stdout)["options"]["times"] == list(TDM)
    assert (
        "did you mean 'tdm-2b'" in cogvideox("generate", "x", "--preset", "tdm-2", "--dry-run", code=2).stderr
    )
    assert "--times 999,856,665,399" in cogvideox("settings", "tdm-2b").stdout.splitlines()
    assert "blade-5b" in cogvideox("settings").stdout
