"""Networks in place of a model folder's own: recognised by config or by shapes, equal to a whole folder, refused where
they do not fit, before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvideox.checkpoints import find_spec, inspect, load_model, read_spec
from cogvideox.checkpoints.components import Components, NetworkFiles
from cogvideox.checkpoints.shapes import transformer_settings
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, CogVideoXError, ConfigError
from cogvideox.files.digest import sha256_of
from cogvideox.generation import generate
from cogvideox.generation.preflight import plan_memory
from cogvideox.memory.offload import offload
from cogvideox.presets import get_preset
from cogvideox.spec import ABOUT_KINDS, ModelSpec
from cogvideox.transformer import Transformer
from cogvideox.video import Video
from support.models import golden_frames, golden_model, same, write_model_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A t2v model, and one of every other kind with the same widths."""
    folder = tmp_path_factory.mktemp("components")
    for kind in ("t2v", "inpaint", "removal"):
        write_model_folder(folder / kind, kind)
    return folder


def alone(folders: Path, kind: str, target: Path) -> Path:
    """The transformer of a model as a single file without a config."""
    file = target / f"{kind}.safetensors"
    shutil.copyfile(folders / kind / "transformer" / WEIGHTS, file)
    return file


def published(folders: Path, kind: str, target: Path) -> Path:
    """The model as others publish it: without our record."""
    folder = shutil.copytree(folders / kind, target / f"published-{kind}")
    (folder / "cogvideox.json").unlink()
    return folder


# settings by shapes


@pytest.mark.parametrize("name", ["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"])
def test_shapes_tell_what_the_config_of_a_released_model_says(name):
    config = get_preset(name).transformer
    with torch.device("meta"):
        network = Transformer(config.changed(num_layers=3))
    settings = transformer_settings({key: tuple(value.shape) for key, value in network.state_dict().items()})
    assert settings.pop("num_layers") == 3
    assert settings == {key: getattr(config, key) for key in settings} and len(settings) == 11


def test_what_is_no_transformer_has_no_settings():
    assert transformer_settings({}) == transformer_settings({"patch_embed.proj.weight": (8, 4, 2, 2)}) == {}


# whole runs


def test_a_single_file_beside_a_model_equals_the_model_it_came_from(folders, tmp_path):
    """VOID's case: everything but the transformer from an inpainting model, whose record says nothing of it."""
    base, whole = published(folders, "inpaint", tmp_path), published(folders, "removal", tmp_path)
    file = alone(folders, "removal", tmp_path)
    found, expected = load_model(base, transformer=file), load_model(whole)
    assert found.spec.kind == "removal" and found.spec.conditions == expected.spec.conditions
    for name in (
        "transformer",
        "vae",
        "schedule",
        "height",
        "width",
        "frames",
        "fps",
        "guidance",
        "text_settings",
    ):
        assert getattr(found.spec, name) == getattr(expected.spec, name), name
    for name, network in expected.networks().items():
        assert same(dict(found.networks()[name].state_dict()), dict(network.state_dict())), name
    gone = np.zeros((9, 32, 48), np.uint8)
    gone[:, 8:16] = 255
    given = dict(
        video=Video(golden_frames(9), 8.0), remove=gone, steps=1, seed=1, height=32, width=48, frames=9
    )
    assert np.array_equal(
        generate(found, "a room", **given).frames, generate(expected, "a room", **given).frames
    )
    streamed = offload(load_model(base, transformer=file, read_weights=False), "cpu", "disk")
    assert np.array_equal(
        generate(streamed, "a room", **given).frames, generate(found, "a room", **given).frames
    )


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize(
    "form", ["file", "file in its folder", "folder", "model folder", "folder of one file"]
)
def test_every_network_is_taken_from_every_form(name, form, folders, tmp_path):
    other = shutil.copytree(folders / "t2v", tmp_path / "other")
    [file] = (other / name).glob("*.safetensors")
    save_file({key: value * 1.5 for key, value in load_file(file).items()}, file)
    if form in ("file", "folder of one file"):
        (tmp_path / "single").mkdir()
        shutil.copyfile(file, tmp_path / "single" / "mine.safetensors")
    paths = {
        "file": tmp_path / "single" / "mine.safetensors",
        "file in its folder": file,
        "folder": other / name,
        "model folder": other,
        "folder of one file": tmp_path / "single",
    }
    found = load_model(folders / "t2v", **{name: paths[form]})
    base, whole = load_model(folders / "t2v"), load_model(other)
    for key, network in found.networks().items():
        source = whole if key == name else base
        assert same(dict(network.state_dict()), dict(source.networks()[key].state_dict())), key
    assert found.spec == base.spec
    where = NetworkFiles.find(name, paths[form])
    assert where.digests().items() <= found.weights.items() and where.digests()


@pytest.mark.parametrize("kind", ABOUT_KINDS)
def test_a_transformer_of_our_own_makes_a_model_of_its_kind(kind, folders, tmp_path):
    whole = write_model_folder(tmp_path / kind, kind)
    spec = find_spec(folders / "t2v", components=Components.find(transformer=whole))
    assert spec.kind == kind and spec.conditions == find_spec(whole).conditions


def test_a_quantised_single_file_is_run_too(folders, tmp_path):
    whole = shutil.copytree(folders / "t2v", tmp_path / "whole")
    file = whole / "transformer" / WEIGHTS
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in load_file(file).items()}, file)
    alone = tmp_path / "fp8.safetensors"
    shutil.copyfile(file, alone)
    asked = dict(steps=1, seed=1, frames=9)
    found, expected = load_model(folders / "t2v", transformer=alone), load_model(whole)
    assert found.spec.stored_bytes == expected.spec.stored_bytes != {}
    assert np.array_equal(
        generate(found, "a red", **asked).frames, generate(expected, "a red", **asked).frames
    )


def test_what_latents_are_scaled_by_stays_the_models(folders, tmp_path):
    other = shutil.copytree(folders / "t2v", tmp_path / "other")
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 1.15}))
    with pytest.warns(UserWarning, match=r"scaling_factor 1.15 is not used: .* trained with 0.7"):
        spec = find_spec(folders / "t2v", components=Components.find(vae=other))
    assert spec.vae == find_spec(folders / "t2v").vae


def test_the_record_names_the_files_that_were_used(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = alone(folders, "t2v", tmp_path)
    words = ["generate", "a red square", "--model", str(folders / "t2v"), "--transformer", str(file)]
    done = CliRunner().invoke(app, [*words, "--steps", "1", "--seed", "1", "--out", "a.mp4"])
    assert done.exit_code == 0, done.stderr
    weights = json.loads((tmp_path / "a.json").read_text())["model"]["weights"]
    assert weights["transformer/t2v.safetensors"] == sha256_of(file)
    assert sorted(name.split("/")[0] for name in weights) == ["text_encoder", "transformer", "vae"]
    assert str(tmp_path) not in (tmp_path / "a.json").read_text()


def test_every_verb_takes_them(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, file = published(folders, "inpaint", tmp_path), alone(folders, "removal", tmp_path)
    Video(golden_frames(9), 8.0).save("in.mp4")
    parts = ["--transformer", str(file)]
    size = ["--height", "32", "--width", "48", "--frames", "9"]
    shown = ["--video", "in.mp4", "--remove", "8,8,16,16", *size]
    for words in (
        ["plan", str(base), "--device", "cpu", "--height", "32", "--width", "48", "--frames", "9"],
        ["inspect", str(base), "--check"],
        ["preview", "seen.mp4", "--model", str(base), *shown],
        ["generate", "an empty room", "--model", str(base), *shown, "--steps", "1", "--anyway"],
    ):
        done = CliRunner().invoke(app, [*words, *parts])
        assert done.exit_code == 0, (words, done.stderr, done.stdout)
    report = inspect(base, transformer=file)
    assert report.ok and report.task == "removal" and "removal.safetensors" in report.kind
    spec = find_spec(base, components=Components.find(transformer=file))
    found = plan_memory(base, device="cpu", transformer=file, frames=9, height=32, width=48).request.spec
    assert isinstance(spec, ModelSpec) and found == spec


def test_lines_of_a_batch_with_another_transformer_are_other_videos(folders, tmp_path):
    source = tmp_path / "lines.txt"
    source.write_text("a red square\n")
    file = alone(folders, "t2v", tmp_path)
    flags = ["--model", str(folders / "t2v"), "--steps", "1", "--seed", "1"]
    for more in ([], ["--transformer", str(file)]):
        words = ["generate", "--batch", str(source), "--out", str(tmp_path / "out"), *flags, *more]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 2


# what is refused


def save_changed(file: Path, target: Path, **changes) -> Path:
    save_file(load_file(file) | changes, target)
    return target


def test_a_transformer_of_another_model_is_refused_with_both_values(folders, tmp_path):
    small = golden_model(num_attention_heads=4)
    file = tmp_path / "wide.safetensors"
    save_file(dict(small.transformer.state_dict()), file)
    with pytest.raises(CheckpointError, match=r"heads 4, the model's own transformer has 2: .* as --model"):
        find_spec(folders / "t2v", components=Components.find(transformer=file))
    in_time = golden_model(patch_size_t=2)
    save_file(dict(in_time.transformer.state_dict()), file)
    with pytest.raises(CheckpointError, match="patch size in time 2, the model's own transformer has None"):
        find_spec(folders / "t2v", components=Components.find(transformer=file))


def test_networks_that_do_not_read_what_the_others_write_are_refused(folders, tmp_path):
    eight = golden_model(in_channels=8, out_channels=8)
    file = tmp_path / "eight.safetensors"
    save_file(dict(eight.transformer.state_dict()), file)
    with pytest.raises(CheckpointError, match="makes 8 latent channels, the VAE reads 4"):
        load_model(folders / "t2v", transformer=file, read_weights=False)
    other = shutil.copytree(folders / "t2v", tmp_path / "other")
    config = other / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"d_model": 48}))
    with pytest.raises(CheckpointError, match="writes vectors of 48, the transformer reads 24"):
        find_spec(folders / "t2v", components=Components.find(text_encoder=other))
    text = tmp_path / "t5.safetensors"
    save_file({"shared.weight": torch.zeros(64, 12)}, text)
    with pytest.raises(
        CheckpointError, match=r"shared.weight\) is \[64, 12\], the model's has vectors of 24"
    ):
        find_spec(folders / "t2v", components=Components.find(text_encoder=text))


def test_a_released_kind_beside_a_model_of_videox_fun_is_refused(folders, tmp_path):
    base, file = published(folders, "inpaint", tmp_path), alone(folders, "t2v", tmp_path)
    with pytest.raises(CheckpointError, match=r"beside a model of VideoX-Fun \(inpaint\)"):
        find_spec(base, components=Components.find(transformer=file))


def test_kinds_that_a_file_leaves_open_are_asked_for(tmp_path):
    config = get_preset("2b").transformer.changed(in_channels=32, num_layers=1)
    with torch.device("meta"):
        shapes = Transformer(config).state_dict()
    file = tmp_path / "some.safetensors"
    save_file({name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in shapes.items()}, file)
    components = Components.find(transformer=file)
    with pytest.raises(CheckpointError, match="--as control or --as i2v-every-frame"):
        find_spec("2b", components=components)
    spec = find_spec("2b", "control", components)
    assert (
        spec.kind == "control" and spec.schedule.snr_shift_scale == 1.0 and spec.transformer.num_layers == 1
    )
    with pytest.raises(ConfigError, match="kind 'inpaint'"):
        find_spec("2b", "inpaint", components)
    report = inspect(file)
    assert report.ok and report.task == "control or i2v-every-frame" and "--transformer" in report.todo


@pytest.mark.parametrize(
    ("flag", "tensors", "why"),
    [
        ("transformer", {"a.weight": torch.zeros(2)}, "holds no transformer"),
        ("transformer", {"a.wquantizer.scale": torch.ones(8, 1)}, "QVGen"),
        ("transformer", {"controlnet_encode_first.0.weight": torch.zeros(96, 192, 1, 1)}, "--control-net"),
        ("vae", {"a.weight": torch.zeros(2)}, "holds no VAE: no encoder and decoder in it; give a VAE"),
        ("vae", {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}, "--tiny-vae"),
        ("text_encoder", {"a.weight": torch.zeros(2)}, "holds no text encoder: no shared.weight"),
        ("text_encoder", {"shared.weight": torch.zeros(9, 3)}, "vectors of 24"),
    ],
)
def test_files_of_other_networks_are_refused_by_name(flag, tensors, why, folders, tmp_path):
    file = tmp_path / "file.safetensors"
    save_file(tensors, file)
    with pytest.raises(CogVideoXError, match=why):
        find_spec(folders / "t2v", components=Components.find(**{flag: file}))
    words = [
        "generate",
        "x",
        "--model",
        str(folders / "t2v"),
        f"--{flag.replace('_', '-')}",
        str(file),
        "--dry-run",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (1, 2) and why in done.stderr
    assert not inspect(folders / "t2v", **{flag: file}).ok


def test_a_folder_without_a_network_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no vae: it has no config.json and not one weights file"):
        Components.find(vae=tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no such folder"):
        Components.find(vae=tmp_path / "gone")


def test_how_a_model_is_sampled_goes_with_its_transformer(folders, tmp_path):
    """A student of few steps keeps its times beside another VAE or text encoder, and brings them as a transformer."""
    plain, student = folders / "t2v", shutil.copytree(folders / "t2v", tmp_path / "student")
    record = json.loads((student / "cogvideox.json").read_text())
    few = {"times": [999, 499], "sampler": "dpmpp_sde", "guidance": 1.0}
    (student / "cogvideox.json").write_text(json.dumps(record | few))

    def sampled(base, **networks):
        spec = read_spec(base, components=Components.find(**networks))
        return spec.times, spec.sampler, spec.guidance

    assert (
        sampled(student, vae=plain) == sampled(student, text_encoder=plain) == ((999, 499), "dpmpp_sde", 1.0)
    )
    assert sampled(plain, transformer=student) == ((999, 499), "dpmpp_sde", 1.0)
    assert sampled(student, transformer=plain) == ((), "ddim", 6.0) == sampled(plain, vae=student)
    shutil.copyfile(next((plain / "transformer").glob("*.safetensors")), tmp_path / "alone.safetensors")
    assert sampled(student, transformer=tmp_path / "alone.safetensors")[0] == (
        999,
        499,
    )  # a file says nothing of it
