"""Distilled models and adapters on them: a run that leaves what they were trained for is warned of, once."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints.shipped import shipped_folder
from cogvideox.cli import app
from cogvideox.generation import GenerateOptions
from cogvideox.generation.distilled import warn_of_adapters, warn_of_left_settings
from cogvideox.generation.job import Job, parse_options, prepare, settled
from cogvideox.strength import Strength
from generation.test_few_steps import TDM, adapter
from support.models import golden_model

EIGHT = (999, 874, 749, 624, 499, 374, 249, 124)


def said(call, *words, **more) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call(*words, **more)
    return [str(each.message) for each in seen if each.category is UserWarning]


def warned(own=EIGHT, **settings) -> list[str]:
    """What is said of a model of these times, for these settings."""
    spec = replace(golden_model().spec, times=own, guidance=1.0)
    return said(warn_of_left_settings, spec, GenerateOptions.parse({"prompt": "x", **settings}), "student")


def lines(*words: object) -> list[str]:
    """What generate says on stderr in a dry run of tiny, warnings alone."""
    done = CliRunner().invoke(app, ["generate", "a red circle", "--dry-run", *map(str, words)])
    assert done.exit_code == 0, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]


# settings of the model's own


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 25}, "steps 25: student was distilled for 8 steps with guidance 1, and others may break"),
        ({"guidance": 6}, "guidance 6: student was distilled for 8 steps with guidance 1"),
        (
            {"steps": 4, "guidance": 2},
            "steps 4, guidance 2: student was .* break the picture; leave steps, times, guidance and sampler out",
        ),
        (
            {"sampler": "dpm-ode"},
            "sampler dpmpp_2m: student was distilled for 8 steps with guidance 1 and sampler ddim",
        ),
        ({"times": TDM}, "times 999,856,665,399: student was distilled for times 999,874,749,"),
    ],
)
def test_leaving_what_a_model_was_distilled_for_is_warned_of_once(settings, message):
    (text,) = warned(**settings)
    assert re.match(message, text), text


@pytest.mark.parametrize(
    "settings",
    [{}, {"steps": 8}, {"times": EIGHT}, {"guidance": 0.5}, {"guidance": 1, "sampler": "ddim", "steps": 8}],
)
def test_the_same_values_in_other_words_are_not(settings):
    assert warned(**settings) == []


def test_as_many_steps_at_other_times_are():
    (text,) = warned(TDM, steps=4)
    assert text.startswith(
        "steps 4 (times 999,749,499,249): student was distilled for times 999,856,665,399 with"
    )


def test_the_usual_sampler_is_another_where_the_model_has_its_own():
    spec = replace(golden_model().spec, times=EIGHT, sampler="dpmpp_sde", guidance=1.0)
    assert said(warn_of_left_settings, spec, GenerateOptions(prompt="x"), "student") == []
    (text,) = said(warn_of_left_settings, spec, GenerateOptions(steps=8), "student")
    assert text.startswith(
        "sampler ddim: student was distilled for 8 steps with guidance 1 and sampler dpmpp_sde"
    )


def test_a_model_without_times_of_its_own_is_asked_for_anything():
    assert warned((), steps=3, guidance=9, sampler="dpm") == []


@pytest.mark.parametrize(
    ("words", "count"),
    [(("--steps", 4), 1), (("--guidance", 6), 1), (("--steps", 8, "--guidance", 1), 0), ((), 0)],
)
def test_the_command_line_says_it_of_the_shipped_model(words, count):
    texts = lines(*words)
    assert len(texts) == count and all("tiny was distilled for 8 steps" in text for text in texts)


def test_python_says_it_too():
    model = cogvideox.load("tiny", device="cpu")
    texts = said(cogvideox.generate, model, "a red circle", steps=1, frames=1)
    assert len(texts) == 1 and texts[0].startswith("steps 1: tiny was distilled for 8 steps with guidance 1")


def test_the_many_step_model_is_silent():
    assert lines("--model", "tiny-base", "--steps", 4, "--guidance", 6) == []


def test_settings_of_a_preset_or_an_adapter_take_the_place_of_the_models(tmp_path):
    assert lines("--preset", "tdm-2b") == []
    path = adapter(tmp_path, steps=8, guidance=3.0)
    assert not any(
        "tiny was distilled for 8 steps with" in each for each in lines("--lora", path, "--steps", 4)
    )
    style = adapter(tmp_path, "style.safetensors", scale=0.5)
    assert "steps 4: tiny was distilled for 8" in lines("--lora", style, "--steps", 4)[0]


# adapters


def trained(folder: Path, start: str | None, used: str = "", **recommended) -> str:
    """An adapter as training writes one: the record of its run beside it."""
    folder.mkdir(parents=True)
    adapter(folder, "pytorch_lora_weights.safetensors", **recommended)
    record = {
        "kind": "training run",
        "config": {"task": {"start": start, "lora": {"rank": 2}}},
        "inputs": {"start": used},
    }
    (folder / "training.json").write_text(json.dumps(record))
    return str(folder)


def of_adapters(path: str, model: str) -> list[str]:
    job, settings = settled(
        Job(model=model, adapters=((path, Strength()),)), {"prompt": "a red circle", "frames": 9}
    )
    return said(prepare, job, parse_options(settings), download=False, ask=False)


def test_an_adapter_of_another_model_is_warned_of(tmp_path):
    path = trained(tmp_path / "a", "tiny-base")
    assert of_adapters(path, "tiny") == [
        f"lora {path}: trained on tiny-base, and tiny is another model; expect worse videos, or take tiny-base"
    ]
    assert of_adapters(path, "tiny-base") == []
    assert of_adapters(trained(tmp_path / "b", "tiny"), "tiny-base")[0].startswith(
        f"lora {tmp_path / 'b'}: trained on tiny,"
    )


def test_few_steps_on_few_steps_are_two_distillations(tmp_path):
    path = trained(tmp_path / "a", "tiny-base", times=TDM, guidance=1.0)
    (text,) = of_adapters(path, "tiny")
    assert text == (
        f"lora {path}: made for 4 steps of its own, and tiny was distilled for 8 already: both together break the "
        "picture; take tiny-base, which the adapter was trained on"
    )
    assert of_adapters(path, "tiny-base") == []
    bare = adapter(tmp_path, times=TDM)
    assert of_adapters(str(bare), "tiny")[0].endswith(
        "take the model of many steps that the adapter was trained on"
    )
    assert of_adapters(str(adapter(tmp_path, "same.safetensors", times=EIGHT)), "tiny") == []
    assert (
        of_adapters(trained(tmp_path / "b", "tiny", times=TDM, guidance=1.0), "tiny") == []
    )  # trained on the student


def test_a_folder_is_told_by_its_record(tmp_path):
    student, base = map(shipped_folder, ("tiny", "tiny-base"))
    assert of_adapters(trained(tmp_path / "a", str(student)), "tiny") == []
    assert of_adapters(trained(tmp_path / "b", "runs/gone", str(base)), "tiny")[0].startswith(
        f"lora {tmp_path / 'b'}: trained on {base}, and tiny is another model"
    )


@pytest.mark.parametrize("start", [None, "runs/gone", "owner/not-here", ["x"]])
def test_where_nothing_can_be_known_nothing_is_said(tmp_path, start):
    assert of_adapters(trained(tmp_path / "a", start), "tiny") == []


@pytest.mark.parametrize("text", ["{", "[]", '{"config": 3}', '{"config": {"task": {"start": "tiny-base"}}}'])
def test_a_record_of_something_else_says_nothing(tmp_path, text):
    path = trained(tmp_path / "a", None)
    Path(path, "training.json").write_text(text)
    assert of_adapters(path, "tiny") == []


def test_a_released_model_is_known_by_its_id_on_the_hub(tmp_path):
    path = trained(tmp_path / "a", "THUDM/CogVideoX-5b")
    spec = replace(golden_model().spec, name="5b")
    assert said(warn_of_adapters, [(path, Strength())], spec, tmp_path, "5b") == []
    assert said(warn_of_adapters, [(path, Strength())], replace(spec, name="5b-i2v"), tmp_path, "mine") == [
        f"lora {path}: trained on THUDM/CogVideoX-5b, and mine is another model; expect worse videos, or take "
        "THUDM/CogVideoX-5b"
    ]
