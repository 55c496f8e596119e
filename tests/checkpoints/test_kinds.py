"""What a model makes a video from, by its files: found, asked for, or refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from cogvideox.checkpoints import find_spec, inspect, load_model, save_model
from cogvideox.checkpoints.kinds import check_kind, fun_settings, kind_in
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.presets import get_preset
from cogvideox.spec import ABOUT_KINDS, condition_channels
from support.models import golden_model, small_preset

WIDE, NARROW = (48, 64), (30, 64)
ROTARY = dict(use_rotary_positional_embeddings=True)
LEARNED = ROTARY | dict(use_learned_positional_embeddings=True)
PAIRS = ROTARY | dict(patch_size_t=2)


@pytest.mark.parametrize(
    ("heads", "channels", "settings", "name", "index", "kind"),
    [
        (NARROW, 16, {}, "CogVideoX-2b", "CogVideoXPipeline", "t2v"),
        (WIDE, 16, ROTARY, "CogVideoX-5b", "CogVideoXPipeline", "t2v"),
        (WIDE, 16, PAIRS, "CogVideoX1.5-5B", "CogVideoXPipeline", "t2v"),
        (WIDE, 32, LEARNED, "CogVideoX-5b-I2V", "CogVideoXImageToVideoPipeline", "i2v"),
        (WIDE, 32, LEARNED, "Index-anisora-5B-diffusers", None, "i2v"),
        (WIDE, 32, PAIRS | dict(ofs_embed_dim=512), "CogVideoX1.5-5B-I2V", None, "i2v"),
        (WIDE, 32, ROTARY, "CogVideoX-Fun-V1.1-5b-Control", "CogVideoXPipeline", "control"),
        (NARROW, 32, {}, "models--alibaba-pai--CogVideoX-Fun-V1.1-2b-Pose", "CogVideoXPipeline", "control"),
        (NARROW, 32, {}, "anything", "CogVideoXFunControlPipeline", "control"),
        (NARROW, 32, {}, "cogvideox-2b-img2vid", "CogVideoXPipeline", "i2v-every-frame"),
        (NARROW, 33, {}, "CogVideoX-Fun-2b-InP", "CogVideoXPipeline", "inpaint"),
        (WIDE, 33, ROTARY, "CogVideoX-Fun-V1.1-5b-InP", "CogVideoXPipeline", "inpaint"),
        (WIDE, 33, PAIRS, "CogVideoX-Fun-V1.5-5b-InP", "CogVideoXPipeline", "inpaint"),
        (WIDE, 48, PAIRS, "void", None, "removal"),
    ],
)
def test_the_published_folders_are_told_apart(heads, channels, settings, name, index, kind, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(json.dumps({"_class_name": index}))
    base = get_preset("5b").transformer
    config = base.parse(
        base.model_dump()
        | dict(
            num_attention_heads=heads[0],
            attention_head_dim=heads[1],
            in_channels=channels,
            position_mode=None,
        )
        | dict(use_rotary_positional_embeddings=False)
        | settings
    )
    assert kind_in(folder, config) == kind


def two_b_of_32(folder):
    """A 2B with as many channels again, in a folder whose name says nothing; the network is cut down in depth."""
    preset = get_preset("2b")
    base = preset.transformer
    return base.changed(in_channels=32, num_layers=1), folder


def test_what_cannot_be_told_is_asked_for_by_name(tmp_path):
    config, folder = two_b_of_32(tmp_path)
    with pytest.raises(CheckpointError, match="--as control or --as i2v-every-frame"):
        kind_in(folder, config)
    assert kind_in(folder, config, "control") == "control"
    assert kind_in(folder, config, "i2v-every-frame") == "i2v-every-frame"
    with pytest.raises(ConfigError, match="kind 'inpaint': its files are those of i2v or"):
        kind_in(folder, config, "inpaint")
    with pytest.raises(ConfigError, match=r"unknown \(did you mean 'control'"):
        check_kind("contrl")


def test_what_the_files_say_is_not_contradicted(tmp_path):
    config = get_preset("5b").transformer.changed(in_channels=32)
    with pytest.raises(ConfigError, match="its files are those of control"):
        kind_in(tmp_path, config, "i2v")


def test_channels_of_no_kind_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no known condition has 5; known are 0 \(t2v\), 16 \(i2v\)"):
        kind_in(None, get_preset("5b").transformer.changed(in_channels=21))


@pytest.fixture(scope="module")
def fun_folder(tmp_path_factory):
    """A folder as VideoX-Fun publishes it: no record of ours, sizes in pixels, the 2B's SNR shift."""
    folder = tmp_path_factory.mktemp("fun") / "CogVideoX-Fun-2b-InP"
    model = golden_model("inpaint", shift=3.0)
    save_model(model, folder)
    (folder / "cogvideox.json").unlink()
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_noise_in_inpaint_model": True}))
    return folder


def test_a_folder_of_videox_fun_means_what_it_was_trained_with(fun_folder):
    spec = find_spec(fun_folder)
    assert spec.kind == "inpaint" and [each.noise for each in spec.conditions] == [0.0, 0.0563]
    assert spec.schedule.snr_shift_scale == 1.0, "also where the file says 3"
    assert spec.vae.first_latent_alone and spec.transformer.position_mode == "fun"
    assert (spec.height, spec.width, spec.frames) == (384, 672, 49)
    assert not inspect(fun_folder).problems and inspect(fun_folder).task == "inpaint"


@pytest.mark.filterwarnings("error")
def test_it_stays_so_when_it_is_saved_again(fun_folder, tmp_path):
    model = load_model(fun_folder)
    again = load_model(save_model(model, tmp_path / "again"))
    assert again.spec.conditions == model.spec.conditions
    for name in ("transformer", "vae", "schedule", "height", "width", "frames", "kind"):
        assert getattr(again.spec, name) == getattr(model.spec, name), name
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, again.transformer.state_dict()[name])


def test_sizes_of_the_1_5_models_are_not_read_as_latents():
    spec = small_preset("1.5-5b")
    config = spec.transformer.changed(in_channels=33, sample_height=384, sample_width=680)
    facts = fun_settings("inpaint", False, config, spec.vae, spec.schedule)
    assert (facts["height"], facts["width"], facts["frames"]) == (384, 672, 85)
    assert facts["transformer"].position_mode == "slice" and facts["condition_noise"] == 0


@pytest.mark.parametrize("kind", ABOUT_KINDS)
def test_a_saved_model_says_its_kind(kind, tmp_path):
    model = golden_model(kind)
    folder = save_model(model, tmp_path / "model")
    spec = find_spec(folder)
    assert spec.kind == kind and spec.conditions == model.spec.conditions
    more = sum(condition.channels for condition in spec.conditions)
    assert more == condition_channels(kind, 4)
    if kind != "t2v":
        with pytest.raises(ConfigError, match=f"cogvideox.json says {kind}"):
            find_spec(folder, kind="t2v")
    copied = shutil.copytree(folder, tmp_path / "copy")
    record = json.loads((copied / "cogvideox.json").read_text())
    (copied / "cogvideox.json").write_text(json.dumps(record | {"kind": "t2v" if kind != "t2v" else "i2v"}))
    with pytest.raises(ConfigError, match="needs in_channels"):
        load_model(copied)


def test_a_record_that_contradicts_the_channels_is_named(tmp_path):
    folder = save_model(golden_model("t2v"), tmp_path / "model")
    record = folder / "cogvideox.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"kind": "inpaint"}))
    with pytest.raises(ConfigError, match=r"cogvideox\.json: kind 'inpaint': needs in_channels"):
        find_spec(folder)
    record.unlink()
    record.mkdir()
    with pytest.raises(CheckpointError, match=r"cogvideox\.json.*not a"):
        find_spec(folder)
