"""SAT checkpoints: both directions give the same bits, and a pickle never runs."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace

import pytest
import torch

from cogvideox.checkpoints import (
    convert,
    inspect,
    load_model,
    load_transformer,
    load_vae,
    read_sat,
    save_model,
)
from cogvideox.checkpoints.keymap import sat_transformer, sat_vae
from cogvideox.errors import CheckpointError
from cogvideox.transformer import Transformer
from support.models import VARIANTS, same, small_model, small_preset, write_model_folder

PREFIX = "model.diffusion_model."


class Canary:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", VARIANTS)
def test_diffusers_to_sat_to_diffusers_to_sat_keeps_every_bit(name, dtype, tmp_path):
    model = small_model(name, dtype)
    first = save_model(model, tmp_path / "first")
    sat = convert(first, tmp_path / "sat", "sat")
    second = convert(sat, tmp_path / "second", "diffusers", small_preset(name))
    again = convert(second, tmp_path / "again", "sat")
    assert same(load_transformer(second).state_dict(), model.transformer.state_dict())
    assert same(load_vae(second).state_dict(), model.vae.state_dict())
    for part in ("transformer", "vae"):
        assert same(read_sat(sat / part).tensors, read_sat(again / part).tensors)
    back = load_model(second)
    assert (back.spec.name, back.spec.kind) == (name, model.spec.kind)
    assert back.schedule.config == model.schedule.config


def test_the_sat_layout_is_the_published_one(tmp_path):
    sat = convert(save_model(small_model("2b"), tmp_path / "m"), tmp_path / "sat", "sat")
    assert (sat / "transformer" / "latest").read_text() == "1"
    names = read_sat(sat / "transformer").tensors
    assert all(name.startswith(PREFIX) for name in names)
    assert names[PREFIX + "transformer.layers.0.attention.query_key_value.weight"].shape == (96, 32)
    assert names[PREFIX + "mixins.adaln_layer.adaLN_modulations.1.1.weight"].shape == (12 * 32, 16)
    assert "decoder.up.3.upsample.conv.weight" in read_sat(sat / "vae").tensors
    assert "decoder.up.0.upsample.conv.weight" not in read_sat(sat / "vae").tensors


def test_chunks_of_the_modulation_go_where_the_layers_read_them():
    rows = torch.arange(12.0).repeat_interleave(2)[:, None]  # twelve chunks of two rows
    ours = sat_transformer().to_ours({PREFIX + "mixins.adaln_layer.adaLN_modulations.7.1.weight": rows})
    assert ours["transformer_blocks.7.norm1.linear.weight"][::2, 0].tolist() == [0, 1, 2, 6, 7, 8]
    assert ours["transformer_blocks.7.norm2.linear.weight"][::2, 0].tolist() == [3, 4, 5, 9, 10, 11]


def test_unused_sat_tables_are_dropped_and_the_rest_is_strict():
    unused = {
        PREFIX + "transformer.position_embeddings.weight": torch.zeros(64, 4),
        PREFIX + "mixins.pos_embed.freqs_sin": torch.zeros(1),
        PREFIX + "mixins.pos_embed.pos_embedding": torch.zeros(1),
    }
    assert sat_transformer().to_ours(unused) == {}
    assert list(sat_transformer(learned_positions=True).to_ours(unused)) == ["patch_embed.pos_embedding"]
    assert sat_vae().to_ours({"loss.discriminator.weight": torch.zeros(1)}) == {}
    with pytest.raises(CheckpointError, match="mixins.new_thing.weight"):
        sat_transformer().to_ours({PREFIX + "mixins.new_thing.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="cannot be cut into 3"):
        sat_transformer().to_ours(
            {PREFIX + "transformer.layers.0.attention.query_key_value.weight": torch.zeros(4, 4)}
        )
    with pytest.raises(CheckpointError, match="cannot hold: rotary.magic"):
        sat_transformer().to_foreign({"rotary.magic": torch.zeros(1)})


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_wrappers_are_taken_off(wrapper, tmp_path):
    sat = convert(save_model(small_model("5b"), tmp_path / "m"), tmp_path / "sat", "sat")
    tensors = read_sat(sat / "vae").tensors
    torch.save(tensors if wrapper is None else {wrapper: tensors, "iteration": 3}, tmp_path / "v.pt")
    assert same(read_sat(tmp_path / "v.pt").tensors, tensors)


@pytest.mark.parametrize("where", ["module", "beside"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(where, tmp_path):
    mark = tmp_path / "ran"
    file = tmp_path / "evil.pt"
    tensors = {PREFIX + "time_embed.0.weight": torch.zeros(1)}
    evil = (
        {"module": {**tensors, "x": Canary(mark)}}
        if where == "module"
        else {"module": tensors, "x": Canary(mark)}
    )
    torch.save(evil, file)
    for look in (read_sat, lambda path: convert(path, tmp_path / "out", "diffusers", "5b")):
        with pytest.raises(CheckpointError, match="could run code"):
            look(file)
    assert not inspect(file).ok
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Canary(mark)))
    with pytest.raises(CheckpointError):
        read_sat(tmp_path / "raw.pt")
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 10, 300, -20])
def test_cut_files_are_refused(kept, tmp_path):
    sat = convert(save_model(small_model("5b"), tmp_path / "m"), tmp_path / "sat", "sat")
    file = read_sat(sat / "transformer").path
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError):
        read_sat(sat / "transformer")


def test_files_that_are_something_else_are_named(tmp_path):
    for value in (
        [1, 2],
        {"a": "text"},
        {},
        {"unheard.of": torch.zeros(1)},
        {"module": {"a": torch.eye(2).to_sparse()}},
    ):
        torch.save(value, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            read_sat(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_sat(tmp_path / "none.pt")
    (tmp_path / "latest").write_text("../../etc")
    with pytest.raises(CheckpointError, match="not the name of a folder"):
        read_sat(tmp_path)


def test_the_wrong_preset_is_refused_with_names(tmp_path):
    sat = convert(save_model(small_model("5b"), tmp_path / "m"), tmp_path / "sat", "sat")
    with pytest.raises(CheckpointError, match="1 missing tensors: patch_embed.pos_embedding"):
        convert(sat, tmp_path / "out", "diffusers", small_preset("5b-i2v"))
    for config in sat.glob("*/config.json"):
        config.unlink()
    with pytest.raises(CheckpointError, match="pass preset"):
        convert(sat, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()


def test_one_part_alone_can_be_converted(tmp_path):
    model = small_model("2b")
    path = save_model(model, tmp_path / "m")
    sat = convert(path / "vae", tmp_path / "sat", "sat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = convert(sat / "vae", tmp_path / "back", "diffusers", small_preset("2b"))
    assert same(load_vae(back).state_dict(), model.vae.state_dict())
    assert not (back / "transformer").exists()


def test_inspecting_sat_says_what_it_is(tmp_path):
    sat = convert(save_model(small_model("5b-i2v"), tmp_path / "m"), tmp_path / "sat", "sat")
    report = inspect(sat, check=True)
    assert report.ok and report.kind == "SAT model" and len(report.tensor_sets) == 2
    assert inspect(sat / "vae").kind == "SAT vae"


def test_a_round_trip_through_sat_keeps_settings_schedule_and_text(tmp_path):
    first = write_model_folder(tmp_path / "first")
    vae = json.loads((first / "vae/config.json").read_text())
    (first / "vae/config.json").write_text(json.dumps(vae | {"scaling_factor": 0.5151}))
    schedule = json.loads((first / "scheduler/scheduler_config.json").read_text())
    (first / "scheduler/scheduler_config.json").write_text(json.dumps(schedule | {"snr_shift_scale": 2.5}))
    model = load_model(first)
    model.spec = replace(model.spec, fps=12.0)
    first = save_model(model, first, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = convert(convert(first, tmp_path / "sat", "sat"), tmp_path / "second", "diffusers")
    back = load_model(second)
    assert back.vae.config.scaling_factor == 0.5151 and back.vae.config == model.vae.config
    assert back.transformer.config == model.transformer.config
    assert back.schedule.config == model.schedule.config
    assert (back.spec.name, back.spec.kind) == (model.spec.name, model.spec.kind)
    assert (back.spec.fps, back.spec.frames) == (12.0, model.spec.frames)
    assert same(back.text.model.state_dict(), model.text.model.state_dict())
    assert torch.equal(back.embed(["a red circle moves"]).values, model.embed(["a red circle moves"]).values)


def test_an_arm_that_only_we_can_express_survives_sat(tmp_path):
    model = small_model("5b")
    model.transformer = Transformer(model.transformer.config.with_arm(attention="split"))
    sat = convert(save_model(model, tmp_path / "m"), tmp_path / "sat", "sat")
    back = convert(sat, tmp_path / "back", "diffusers")
    assert load_transformer(back).config == model.transformer.config
    part = convert(sat / "transformer", tmp_path / "part", "diffusers")
    assert load_transformer(part).config == model.transformer.config


def test_settings_that_are_a_guess_are_said_aloud(tmp_path):
    model = small_model("5b")
    sat = convert(save_model(model, tmp_path / "m"), tmp_path / "sat", "sat")
    for config in [*sat.glob("*/config.json"), sat / "cogvideox.json"]:
        config.unlink()
    unreleased = replace(small_preset("5b"), hub=None)
    with pytest.warns(UserWarning, match=r"settings of preset 5b are used \(scaling_factor 0.7\)") as said:
        convert(sat, tmp_path / "back", "diffusers", unreleased)
    assert any("holds no text encoder" in str(each.message) for each in said)


def test_a_preset_that_does_not_fit_is_refused_between_diffusers_folders_too(tmp_path):
    first = save_model(small_model("5b"), tmp_path / "m")
    for to in ("diffusers", "sat"):
        with pytest.raises(CheckpointError, match="not the network of preset 2b"):
            convert(first, tmp_path / "out", to, "2b")
    assert load_model(convert(first, tmp_path / "out", "diffusers", small_preset("5b"))).spec.name == "5b"


def test_rewriting_a_folder_keeps_precision_and_record(tmp_path):
    first = save_model(small_model("5b", torch.float16), tmp_path / "m", provenance={"run": "abc"})
    record = json.loads((first / "cogvideox.json").read_text())
    (first / "cogvideox.json").write_text(json.dumps(record | {"dtype": "float32"}))
    back = convert(first, tmp_path / "out", "diffusers")
    assert {p.dtype for p in load_vae(back).parameters()} == {torch.float16}
    again = json.loads((back / "cogvideox.json").read_text())
    assert (again["dtype"], again["provenance"]) == ("float32", {"run": "abc"})
