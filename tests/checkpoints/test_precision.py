"""float16 is a format for storing: a CPU computes in float32 unless it is told not to."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from cogvideox.checkpoints import load_model, load_schedule, save_model
from support.models import small_model


def types(model):
    return {p.dtype for part in model.networks().values() for p in part.parameters()}


def test_float16_is_computed_in_float32_on_a_cpu_and_said_once(tmp_path):
    path = save_model(small_model("2b", torch.float16), tmp_path / "m")
    with pytest.warns(UserWarning, match="float16 becomes float32") as said:
        assert types(load_model(path)) == {torch.float32}
    assert len(said) == 1


def test_float16_that_is_asked_for_is_kept_with_a_warning(tmp_path):
    path = save_model(small_model("2b", torch.float16), tmp_path / "m")
    with pytest.warns(UserWarning, match="dtype float16.*slower"):
        assert types(load_model(path, dtype="float16")) == {torch.float16}


def test_nothing_changes_where_another_device_computes_or_other_types_are_stored(tmp_path):
    half = save_model(small_model("2b", torch.float16), tmp_path / "half")
    brain = save_model(small_model("5b", torch.bfloat16), tmp_path / "brain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert types(load_model(half, compute_device="cuda")) == {torch.float16}
        assert types(load_model(half, dtype="float32")) == {torch.float32}
        assert types(load_model(brain)) == {torch.bfloat16}


def test_only_the_part_in_float16_changes(tmp_path):
    model = small_model("5b", torch.bfloat16)
    model.vae.half()
    path = save_model(model, tmp_path / "m")
    with pytest.warns(UserWarning, match=": vae: float16"):
        back = load_model(path)
    assert {p.dtype for p in back.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in back.transformer.parameters()} == {torch.bfloat16}


def test_another_spacing_in_the_file_is_overridden_aloud(tmp_path):
    path = save_model(small_model("2b"), tmp_path / "m")
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "linspace"}))
    with pytest.warns(UserWarning, match="timestep_spacing 'linspace' is not used"):
        assert load_schedule(path).config.timestep_spacing == "trailing"
