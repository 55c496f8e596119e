"""Model folders: what is saved is what is loaded, and what is wrong is named."""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints import inspect, load_lora, load_model, load_transformer, load_vae, save_model
from cogvideox.checkpoints.fill import check_names, to_dtype
from cogvideox.checkpoints.tensors import read_file, to_bytes, write_folder
from cogvideox.errors import CheckpointError, ConfigError, OutputError, suggest
from cogvideox.transformer import Experts, Transformer
from support.models import VARIANTS, same, small_model

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return save_model(small_model("5b"), tmp_path / "model")


def rewrite(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_equals_loaded(name, tmp_path):
    model = small_model(name)
    back = load_model(save_model(model, tmp_path / "m"))
    assert same(model.transformer.state_dict(), back.transformer.state_dict())
    assert same(model.vae.state_dict(), back.vae.state_dict())
    assert back.transformer.config == model.transformer.config
    assert back.vae.config == model.vae.config
    assert back.schedule.config == model.schedule.config
    assert (back.spec.name, back.spec.kind, back.spec.fps, back.text) == (
        name,
        model.spec.kind,
        model.spec.fps,
        None,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_precision_is_kept_unless_another_is_asked_for(dtype, tmp_path):
    path = save_model(small_model("5b", dtype), tmp_path / "m")
    assert {p.dtype for p in load_transformer(path).parameters()} == {dtype}
    assert {p.dtype for p in load_vae(path, dtype="fp32").parameters()} == {torch.float32}


def test_sharded_equals_single(tmp_path):
    model = small_model("2b")
    one, many = save_model(model, tmp_path / "one"), save_model(model, tmp_path / "many", shard_size=20_000)
    shards = sorted((many / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 3
    index = json.loads((many / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in model.transformer.parameters())
    assert same(load_transformer(one).state_dict(), load_transformer(many).state_dict())


def test_variant_files_are_found(folder):
    os.rename(folder / WEIGHTS, folder / WEIGHTS.replace(".safetensors", ".fp16.safetensors"))
    assert load_transformer(folder, variant="fp16").config == load_transformer(folder).config
    with pytest.raises(CheckpointError, match="bf16"):
        load_transformer(folder, variant="bf16")


def test_a_part_can_be_named_directly(folder):
    assert same(load_vae(folder).state_dict(), load_vae(folder / "vae").state_dict())


def test_a_model_that_diffusers_cannot_express_keeps_its_arm(tmp_path):
    model = small_model("5b")
    model.transformer = Transformer(
        model.transformer.config.with_arm(attention="split", experts=Experts(weights=True))
    )
    back = load_transformer(save_model(model, tmp_path / "m"))
    assert back.config == model.transformer.config
    assert "attention" not in json.loads((tmp_path / "m/transformer/config.json").read_text())


def test_loading_keeps_one_copy_only(folder):
    before = {id(p) for p in load_transformer(folder).parameters() if p.is_meta}
    assert not before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("proj_out.bias"), "1 missing tensors: proj_out.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 unknown tensors: extra"),
        (lambda t: t.update({"proj_out.bais": t.pop("proj_out.bias")}), "did you mean 'proj_out.bias'"),
        (
            lambda t: t.update({"proj_out.bias": torch.zeros(3)}),
            r"mis-shaped tensors: proj_out.bias is \[3\]",
        ),
        (lambda t: [t.pop(key) for key in list(t) if "norm1" in key], r"\.\.\. \(8 in all\)"),
    ],
)
def test_wrong_tensors_are_named(folder, change, told):
    rewrite(folder / WEIGHTS, change)
    with pytest.raises(CheckpointError, match=told):
        load_transformer(folder)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_cut_files_are_refused(folder, kept):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model.safetensors"):
        load_transformer(folder)


def test_a_header_that_lies_is_refused(tmp_path):
    for header in (b"{}" * 20, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999]}}', b"[" * 5000):
        file = tmp_path / "x.safetensors"
        file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        with pytest.raises(CheckpointError):
            read_file(file)
    file.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_file(file)


def test_a_pickled_file_under_a_safe_name_is_refused(folder):
    torch.save({"a": torch.zeros(2)}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="pickled"):
        load_transformer(folder)


def test_special_files_are_refused(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_transformer(folder)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a.bin"])
def test_an_index_cannot_lead_out_of_its_folder(folder, shard):
    (folder / WEIGHTS).unlink()
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.bias": shard}}))
    with pytest.raises(CheckpointError, match="not the name of a safetensors file"):
        load_transformer(folder)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path):
    path = save_model(small_model("2b"), tmp_path / "m", shard_size=20_000)
    index = path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["proj_out.bias"] = min(values["weight_map"].values())
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="disagrees"):
        load_transformer(path)


def test_nan_is_never_saved_and_is_found_on_request(folder, tmp_path):
    model = small_model("5b")
    model.transformer.proj_out.bias.data[3] = float("nan")
    with pytest.raises(CheckpointError, match="proj_out.bias"):
        save_model(model, tmp_path / "bad")
    assert not (tmp_path / "bad").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    rewrite(folder / WEIGHTS, lambda t: t["proj_out.bias"].fill_(float("inf")))
    load_transformer(folder)
    with pytest.raises(CheckpointError, match="NaN or Inf in proj_out.bias"):
        load_transformer(folder, check=True)
    problems = inspect(folder, check=True).problems
    assert any("proj_out.bias" in p for p in problems) and any("SHA-256" in p for p in problems)


def test_a_taken_place_is_left_alone_unless_told(folder):
    with pytest.raises(OutputError, match="overwrite"):
        save_model(small_model("2b"), folder)
    assert load_model(folder).spec.name == "5b"
    assert load_model(save_model(small_model("2b"), folder, overwrite=True)).spec.name == "2b"


def test_newer_settings_may_be_absent_and_unknown_ones_warn(folder):
    file = folder / "transformer" / "config.json"
    values = json.loads(file.read_text())
    for key in ("ofs_embed_dim", "patch_size_t", "patch_bias", "use_learned_positional_embeddings"):
        values.pop(key)
    file.write_text(json.dumps(values))
    load_transformer(folder)
    file.write_text(json.dumps(values | {"num_layer": 3}))
    with pytest.warns(UserWarning, match="did you mean 'num_layers'"):
        load_transformer(folder)
    file.write_text(json.dumps(values | {"num_layers": "many"}))
    with pytest.raises(ConfigError, match="config.json: num_layers"):
        load_transformer(folder)


def test_another_kind_of_model_is_named(folder):
    file = folder / "model_index.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match="FluxPipeline"):
        load_model(folder)
    file.write_text(json.dumps(values | {"transformer": ["evil_module", "Run"]}))
    with pytest.raises(CheckpointError, match="only CogVideoXTransformer3DModel can be loaded"):
        load_model(folder)


def test_a_missing_model_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="not available from the hub"):
        load_model("nobody/no-such-model")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="model_index.json is missing"):
        load_model(tmp_path)


def test_an_attached_adapter_is_not_saved_by_accident(folder, tmp_path):
    from cogvideox.checkpoints import add_lora

    model = load_model(folder)
    add_lora(model, rank=2)
    with pytest.raises(CheckpointError, match="lora_A"):
        save_model(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match="no such file"):
        load_lora(model, tmp_path / "no.safetensors")


def test_the_record_names_what_made_the_weights(tmp_path):
    path = save_model(small_model("5b-i2v"), tmp_path / "m", provenance={"run": "abc", "step": 7})
    record = json.loads((path / "cogvideox.json").read_text())
    assert record["provenance"] == {"run": "abc", "step": 7} and record["kind"] == "i2v"
    assert set(record["files"]) == {WEIGHTS, "vae/diffusion_pytorch_model.safetensors"}


def test_sizes_and_types_are_read_from_text():
    assert (to_bytes("5GB"), to_bytes("1MiB"), to_bytes(7)) == (5 * 10**9, 2**20, 7)
    assert to_dtype("bf16") is torch.bfloat16
    for wrong in ("5XB", "", 0, "-1GB"):
        with pytest.raises(CheckpointError):
            to_bytes(wrong)
    with pytest.raises(CheckpointError, match="did you mean"):
        to_dtype("float61")


def test_weights_may_be_read_by_whom_the_system_lets_read_new_files(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    other = folder / "a new file"
    other.touch()
    assert weights.stat().st_mode == other.stat().st_mode


def test_views_do_not_drag_their_storage_into_a_file(tmp_path):
    whole = torch.zeros(1000, 10)
    files = write_folder(tmp_path, "x", {"a": whole[:2], "b": whole[2:4]}, 10**9)
    assert files[0].stat().st_size < 1000


def test_names_agree_silently():
    check_names({"a": (1,)}, {"a": (1,)}, "here")


def test_a_models_own_guidance_is_kept(folder, tmp_path):
    model = load_model(folder)
    assert model.spec.guidance == 6.0 and "guidance" not in (folder / "cogvideox.json").read_text()
    model.spec = replace(model.spec, guidance=2.5)
    save_model(model, tmp_path / "own")
    assert load_model(tmp_path / "own").spec.guidance == 2.5


def test_thousands_of_names_behind_a_prefix_are_told_at_once():
    expected = {
        f"transformer_blocks.{i}.{leaf}.weight": (4, 4)
        for i in range(300)
        for leaf in ("to_q", "to_k", "ff", "n")
    }
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=r"all unknown names begin with 'module\.'"):
        check_names(expected, {f"module.{name}": shape for name, shape in expected.items()}, "here")
    with pytest.raises(CheckpointError, match="did you mean"):
        check_names(expected, {name.replace("blocks", "block"): s for name, s in expected.items()}, "here")
    assert time.monotonic() - begun < 10  # it took 45 s to compare each name with each


def test_suggestions_take_no_time_for_any_input():
    begun = time.monotonic()
    assert suggest("x" * 10**6, ["y" * 10**6] * 100) == ""
    assert suggest("a.weight", (f"b{n}.weight" for n in range(10**5))) != "nothing"
    assert time.monotonic() - begun < 10
