"""Model folders of strangers: numbers are bounded, weights are floats, storages hold what is claimed, links stay in."""

from __future__ import annotations

import json
import shutil
import time
import typing
import zipfile

import annotated_types
import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.captioning.local import CaptionerConfig
from cogvideox.checkpoints import convert, inspect, load_model, read_sat, read_spec
from cogvideox.checkpoints.record import ModelRecord
from cogvideox.checkpoints.text import load_text
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError, CogVideoXError, ConfigError
from cogvideox.text import T5Config, Tokenizer
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig
from support.models import write_model_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture
def folder(toy, tmp_path):
    return shutil.copytree(toy, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def numbers(kind):
    """Each number of a config and what bounds it."""
    for name, field in kind.model_fields.items():
        args = typing.get_args(field.annotation) or (field.annotation,)
        if field.annotation in (int, float) or {int, float} & set(args):
            yield name, field.metadata


@pytest.mark.parametrize(
    "kind", [TransformerConfig, VAEConfig, ScheduleConfig, T5Config, ModelRecord, CaptionerConfig]
)
def test_every_number_that_is_read_from_a_model_folder_has_an_upper_bound(kind):
    bounds = (annotated_types.Le, annotated_types.Lt)
    assert [name for name, held in numbers(kind) if not any(isinstance(b, bounds) for b in held)] == []


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("transformer/config.json", "num_layers", 10**6),
        ("transformer/config.json", "num_attention_heads", 10**9),
        ("transformer/config.json", "max_text_seq_length", 10**12),
        ("transformer/config.json", "sample_height", 10**8),
        ("transformer/config.json", "patch_size_t", -1),
        ("transformer/config.json", "num_layers", True),
        ("transformer/config.json", "num_layers", "2"),
        ("vae/config.json", "block_out_channels", [10**7] * 4),
        ("vae/config.json", "block_out_channels", [8] * 40),
        ("vae/config.json", "latent_channels", 10**7),
        ("vae/config.json", "layers_per_block", 10**6),
        ("vae/config.json", "scaling_factor", "0.7"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**10),
        ("text_encoder/config.json", "num_layers", 10**6),
        ("text_encoder/config.json", "d_model", 10**9),
        ("text_encoder/config.json", "vocab_size", 10**12),
        ("text_encoder/config.json", "relative_attention_max_distance", 2),
        ("cogvideox.json", "frames", 10**9),
        ("cogvideox.json", "fps", 10**9),
    ],
)
def test_a_number_out_of_bounds_is_refused_before_a_network_is_built(folder, file, key, value):
    edit(folder / file, **{key: value})
    started = time.monotonic()
    with pytest.raises(CogVideoXError) as error:
        load_model(folder)
    assert time.monotonic() - started < 5
    shown = value[0] if isinstance(value, list) and value[0] > 8 else value
    assert key in str(error.value) and (isinstance(value, list) or str(shown) in str(error.value))
    assert not inspect(folder).ok


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"num_layers":', '"num_layers": NaN, "x":', "NaN"),
        ('"num_layers":', '"num_layers": 1e999, "x":', "finite"),
        ('"num_layers":', '"num_layers": 1, "num_layers":', "twice"),
        ('"num_layers":', '"num_layers": ' + "[" * 10**5 + ', "x":', "nested too deeply"),
    ],
)
def test_json_that_is_no_plain_json_is_refused(folder, old, new, why):
    file = folder / "transformer" / "config.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=why):
        load_model(folder)


def test_unknown_settings_and_parts_are_named_and_those_of_real_folders_are_not(folder, recwarn):
    base = [
        "return_dict",
        "torch_dtype",
        "num_beams",
        "task_specific_params",
        "tie_word_embeddings",
        "n_positions",
    ]
    edit(folder / "text_encoder" / "config.json", _name_or_path="x", **dict.fromkeys(base))
    edit(folder / "model_index.json", _name_or_path="x", safety_checker=[None, None])
    load_model(folder)
    assert [
        str(w.message) for w in recwarn if "unknown" in str(w.message) or "no part" in str(w.message)
    ] == []
    edit(folder / "text_encoder" / "config.json", relative_attention_num_bukets=16)
    edit(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModel"])
    with pytest.warns(UserWarning) as told:
        load_model(folder)
    text = " ".join(str(w.message) for w in told)
    assert "did you mean 'relative_attention_num_buckets'" in text and "image_encoder" in text


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("model_index.json", "transformer", ["diffusers", "WanTransformer3DModel"]),
        ("model_index.json", "vae", ["diffusers", ["a"]]),
        ("model_index.json", "_class_name", "WanPipeline"),
        ("model_index.json", "_class_name", ["x"]),
        ("text_encoder/config.json", "architectures", ["CLIPTextModel"]),
        ("text_encoder/config.json", "architectures", 3),
        ("text_encoder/config.json", "dense_act_fn", "relu"),
        ("text_encoder/config.json", "model_type", "umt5"),
        ("tokenizer/tokenizer_config.json", "model_max_length", "x"),
    ],
)
def test_classes_and_settings_of_other_networks_are_refused(folder, file, key, value):
    edit(folder / file, **{key: value})
    with pytest.raises((CheckpointError, ConfigError)):
        load_text(folder) if file.startswith("tok") else load_model(folder)


def test_a_tokenizer_that_says_no_longest_text_is_read(folder):
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=int(1e30))
    assert load_text(folder).max_tokens == 226


@pytest.mark.parametrize(
    ("part", "file"), [("transformer", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors")]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_weights_that_are_not_floats_are_named_by_every_reader(folder, part, file, dtype):
    place = folder / part / file
    tensors = load_file(place)
    name = next(name for name in tensors if name.endswith("weight"))
    save_file({**tensors, name: tensors[name].to(dtype)}, place)
    for work in (lambda: load_model(folder), lambda: convert(folder, folder.parent / "out", "diffusers")):
        with pytest.raises(CheckpointError, match="not floats"):
            work()
    report = inspect(folder, check=True)
    assert not report.ok and "no problems" not in report.to_text()


def test_weights_with_nan_are_named_when_asked(folder):
    place = folder / "transformer" / WEIGHTS
    tensors = load_file(place)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, place)
    assert name in "".join(inspect(folder, check=True).problems)
    with pytest.raises(CheckpointError, match="NaN"):
        load_model(folder, check=True)


def rezip(source, target, change, packed=False):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            data = change(data) if entry.filename.endswith("data.pkl") else data
            new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return target


def sat_file(path, **tensors):
    names = {f"model.diffusion_model.mixins.{name}": value for name, value in tensors.items()}
    torch.save({"module": names}, path)
    return path


def test_a_pickled_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    sound = sat_file(tmp_path / "a.pt", one=torch.arange(16.0), two=torch.arange(1000.0))
    assert len(read_sat(sound).tensors) == 2
    one = torch.arange(16.0)
    bad = {
        "repeated": sat_file(tmp_path / "b.pt", one=one[:1].expand(10**6, 10**6)),
        "longer": rezip(sound, tmp_path / "c.pt", lambda data: data.replace(b"K\x10", b"K\x40")),
        "huge": rezip(sound, tmp_path / "d.pt", lambda data: data.replace(b"K\x10", b"J\xff\xff\xff\x7f")),
        "packed": rezip(sound, tmp_path / "e.pt", lambda data: data, packed=True),
        "integers": sat_file(tmp_path / "g.pt", one=torch.arange(16)),
        "meta": sat_file(tmp_path / "h.pt", one=torch.zeros(3, device="meta")),
    }
    shared = torch.zeros(10**4)
    bad["many"] = sat_file(tmp_path / "f.pt", **{f"n{i}": shared for i in range(50)})
    whole = sound.read_bytes()
    bad["cut"] = tmp_path / "i.pt"
    bad["cut"].write_bytes(whole[: len(whole) // 2])
    for name, file in bad.items():
        with pytest.raises(CheckpointError, match=file.name):
            read_sat(file)
        assert not inspect(file, check=True).ok, name


def test_links_out_of_a_model_folder_are_refused_by_every_reader(folder, tmp_path):
    secret = tmp_path / "secret"
    shutil.copytree(folder, secret)
    for name in (
        f"transformer/{WEIGHTS}", "vae/config.json", "scheduler/scheduler_config.json", "tokenizer/spiece.model",
        "text_encoder/model.safetensors", "model_index.json", "cogvideox.json", "transformer",
    ):  # fmt: skip
        place = folder / name
        kept = folder / "kept"
        place.rename(kept)
        place.symlink_to(secret / name)
        with pytest.raises(CheckpointError, match="leads? out"):
            load_model(folder)
        with pytest.raises(CheckpointError, match="leads? out"):
            convert(folder, tmp_path / "out", "diffusers")
        assert not (tmp_path / "out").exists()
        place.unlink()
        kept.rename(place)
    load_model(folder)


def test_a_sat_folder_brings_no_foreign_files_along(folder, tmp_path):
    sat = convert(folder, tmp_path / "sat", "sat")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for name in ("tokenizer/added_tokens.json", "text_encoder/x.safetensors", "text_encoder/config.json"):
        place = sat / name
        kept = place.read_bytes() if place.exists() else None
        place.unlink(missing_ok=True)
        place.symlink_to(secret)
        with pytest.raises(CheckpointError, match="leads out"):
            convert(sat, tmp_path / "back", "diffusers")
        assert not (tmp_path / "back").exists()
        place.unlink()
        if kept is not None:
            place.write_bytes(kept)
    assert convert(sat, tmp_path / "back", "diffusers").is_dir()


def test_a_snapshot_of_the_hub_cache_is_read_through_its_links(folder, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = repository / "blobs" / str(number)
        shutil.copyfile(file, blob)
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        depth = len(place.relative_to(repository).parts) - 1
        place.symlink_to("/".join([".."] * depth + ["blobs", str(number)]))
    for place in (snapshot, tmp_path / "mine"):
        if not place.exists():
            place.symlink_to(snapshot)
        assert load_model(place).text is not None
        assert read_spec(place).height == 32
        assert inspect(place, check=True).ok
        assert Tokenizer.read(place / "tokenizer").longest == 8
    assert convert(snapshot, tmp_path / "out", "diffusers").is_dir()
    (snapshot / "vae" / "config.json").unlink()
    (snapshot / "vae" / "config.json").symlink_to(folder / "vae" / "config.json")
    with pytest.raises(CheckpointError, match="leads out"):
        load_model(snapshot)
