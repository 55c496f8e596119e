"""A model folder's spec: read once, without weights; its own files decide, by one rule for the native size."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cogvideox.checkpoints import find_spec, load_model, read_spec, record, save_model, specs
from cogvideox.checkpoints.record import RECORD
from cogvideox.diffusion.guidance import RELEASED_GUIDANCE
from cogvideox.presets import PRESETS, get_preset
from cogvideox.spec import GUIDANCE, ModelSpec
from support.models import small_model

NATIVE = ("kind", "height", "width", "frames", "fps")


def native(spec):
    return {name: getattr(spec, name) for name in NATIVE}


def without_record(folder):
    (folder / RECORD).unlink()
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_the_configs_of_a_preset_say_its_native_size(name):
    preset = get_preset(name)
    derived = ModelSpec.of_configs(
        transformer=preset.transformer, vae=preset.vae, schedule=preset.schedule, name=name
    )
    assert native(derived) == native(preset) and derived.conditions == preset.conditions


def test_the_files_of_a_folder_decide_and_not_the_preset_that_it_resembles(tmp_path):
    """What load_model derived holds; reading settings took the size of the preset, and 8 frames a second of 5B."""
    preset = get_preset("5b")
    other = preset.transformer.model_copy(update={"sample_height": 40, "sample_width": 50})
    spec = ModelSpec.of_configs(transformer=other, vae=preset.vae, schedule=preset.schedule, name="5b")
    assert (spec.height, spec.width, preset.height) == (320, 400, 480)
    folder = without_record(save_model(small_model("1.5-5b"), tmp_path / "m"))
    spec = read_spec(folder)
    assert (spec.name, spec.height, spec.width, spec.fps) == ("", 768, 1360, 16)
    assert native(spec) == native(load_model(folder, device="cpu").spec)


@pytest.mark.parametrize("name", ["2b", "5b-i2v", "1.5-5b"])
def test_a_spec_is_what_loading_gives_and_saving_keeps(name, tmp_path):
    model = small_model(name)
    model.spec = replace(model.spec, fps=12.0, guidance=2.5, licence="mine", frames=9)
    folder = save_model(model, tmp_path / "m", dtype="bfloat16")
    spec = read_spec(folder)
    assert spec == load_model(folder, device="cpu").spec == find_spec(folder)
    assert (spec.fps, spec.guidance, spec.licence, spec.dtype) == (12.0, 2.5, "mine", "bfloat16")
    assert save_model(load_model(folder, device="cpu"), tmp_path / "again", dtype="bfloat16")
    assert read_spec(tmp_path / "again") == spec


def test_guidance_of_the_released_models_is_kept_where_the_preset_has_its_own(tmp_path):
    model = small_model("5b")
    model.spec = replace(model.spec, name="tiny")
    assert read_spec(save_model(model, tmp_path / "m")).guidance == GUIDANCE == RELEASED_GUIDANCE


def test_cogvideox_json_is_read_once_in_a_load(tmp_path, monkeypatch):
    folder = save_model(small_model("5b"), tmp_path / "m")
    asked = []
    for module in (specs, record):
        monkeypatch.setattr(
            module, "read_json", lambda file: asked.append(file) or json.loads(file.read_text())
        )
    load_model(folder, device="cpu")
    assert asked.count(folder / RECORD) == 1
    read_spec(folder)
    assert asked.count(folder / RECORD) == 2
