"""Files of ControlNets: recognised by name, read by config or by shapes, refused where they are damaged or no model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvideox.checkpoints import inspect, load_controlnet
from cogvideox.checkpoints.controlnet import read_controlnet_config
from cogvideox.checkpoints.shapes import controlnet_settings
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.presets import get_preset
from cogvideox.transformer.controlnet import ControlNet, ControlNetConfig
from support.models import same, write_controlnet

WEIGHTS = "diffusion_pytorch_model.safetensors"
PUBLISHED = {
    "2b": dict(num_layers=8, num_attention_heads=30, out_proj_dim=None),
    "5b": dict(num_layers=18, num_attention_heads=30, out_proj_dim=3072),
}
"""What the config files of TheDenk's ControlNets say, and how many numbers they hold."""
NUMBERS = {"2b": 458_281_648, "5b": 1_125_320_624}


@pytest.fixture
def net(tmp_path):
    return write_controlnet(tmp_path / "net")


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_published_sizes_have_their_numbers_and_their_shapes_tell_them(preset):
    config = ControlNetConfig(**PUBLISHED[preset])
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ControlNet(config).state_dict().items()}
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == NUMBERS[preset]
    assert ControlNetConfig(**controlnet_settings(shapes)) == config
    fits = {
        name for name in ("2b", "5b", "5b-i2v", "1.5-5b") if not config.why_not(get_preset(name).transformer)
    }
    assert fits == ({"2b"} if preset == "2b" else {"5b", "5b-i2v"})


def test_it_is_read_as_stored_or_cast_and_left_in_its_file(net):
    stored = load_file(net / WEIGHTS)
    assert same(dict(load_controlnet(net).state_dict()), stored)
    assert load_controlnet(net, "bfloat16").patch_embed.proj.weight.dtype == torch.bfloat16
    assert load_controlnet(net / WEIGHTS, read_weights=False).patch_embed.proj.weight.is_meta
    assert (
        load_controlnet(net).weights.keys() == {WEIGHTS} and not load_controlnet(net, digests=False).weights
    )


def test_weights_in_few_bits_are_made_numbers_of(net):
    tensors = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(net / WEIGHTS).items()}
    save_file(tensors, net / WEIGHTS)
    found = load_controlnet(net, "float32").state_dict()
    for name, value in tensors.items():
        number = found[name].dequantize() if isinstance(found[name], QuantisedTensor) else found[name]
        assert torch.equal(number, value.float()), name


def test_inspect_names_it_and_says_how_to_use_it(net):
    for path in (net, net / WEIGHTS):
        report = inspect(path, check=True)
        assert report.ok and report.kind == "a CogVideoX ControlNet", report.to_text()
        assert "--control-net" in report.todo and "transformer of width 32" in report.task
    done = CliRunner().invoke(app, ["inspect", str(net)])
    assert done.exit_code == 0 and "ControlNet" in done.stdout


def test_as_a_model_it_is_refused_with_the_flag_that_takes_it(net):
    for path in (net, net / WEIGHTS):
        done = CliRunner().invoke(app, ["generate", "x", "--model", str(path), "--dry-run"])
        assert done.exit_code == 1 and "generate --control-net" in done.stderr


def test_damaged_and_other_files_are_refused(net, tmp_path):
    tensors = load_file(net / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if "blocks.1" not in name}, net / WEIGHTS)
    with pytest.raises(CheckpointError, match="missing tensors: transformer_blocks.1"):
        read_controlnet_config(net)
    alone = tmp_path / "alone.safetensors"
    save_file({"controlnet_encode_first.0.weight": torch.zeros(96, 192, 1, 1)}, alone)
    with pytest.raises(CheckpointError, match="damaged: its ControlNet has no patch_embed"):
        read_controlnet_config(alone)
    other = shutil.copytree(net, tmp_path / "other")
    save_file({"a": torch.zeros(2)}, other / WEIGHTS)
    with pytest.raises(CheckpointError, match="holds no ControlNet"):
        load_controlnet(other)
    save_file(tensors, net / WEIGHTS)
    values = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps(values | {"downscale_coef": 1}))
    with pytest.raises(ConfigError, match="3 folded channels"):
        read_controlnet_config(net)
