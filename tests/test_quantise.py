"""A folder of rounded weights: diffusers loads it, computes what ours computes, and the record says what it is."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import cogvideox
from cogvideox.checkpoints.diffusers import load_transformer
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.inspect import inspect
from cogvideox.checkpoints.network_files import read_network_file
from cogvideox.checkpoints.specs import read_spec
from cogvideox.errors import ConfigError, DependencyError, OutputError
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.memory import lower
from cogvideox.memory.lowbit import quantise as quantise_layers
from cogvideox.memory.weights import blocks_of
from cogvideox.quantise import quantise


def lowered(storage, products):
    network = load_transformer(find_folder("tiny"), "float32")
    for block in blocks_of(network):
        quantise_layers(block, storage, products)
    return network.eval()


@pytest.mark.parametrize(("storage", "products"), [("int8", "full"), ("int8", "int8"), ("fp8", "full")])
@torch.no_grad()
def test_diffusers_loads_it_and_computes_the_same(tmp_path, storage, products):
    pytest.importorskip("torchao")
    diffusers = pytest.importorskip("diffusers")
    out = quantise("tiny", tmp_path / "low", storage, products=products, dtype="float32")
    theirs = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        out / "transformer", torch_dtype=torch.float32
    )
    ours, plain = lowered(storage, products), load_transformer(find_folder("tiny"), "float32")
    config = ours.config
    torch.manual_seed(0)
    x, text = torch.randn(1, config.in_channels, 3, 8, 8), torch.randn(1, 12, config.text_embed_dim)
    times = torch.tensor([500])
    found = theirs.eval()(x.transpose(1, 2), text, times, return_dict=False, **_rotary(ours, x))[0].transpose(
        1, 2
    )
    expected = ours(x, text, times)
    apart = float((found - expected).norm() / expected.norm())
    rounding = float((expected - plain(x, text, times)).norm() / expected.norm())
    if products == "full":
        assert apart < 1e-5 < rounding
    else:  # activations at the border between two whole numbers fall to either side
        assert apart < rounding < 0.05


@pytest.mark.parametrize(("storage", "products"), [("int8", "full"), ("int8", "int8"), ("fp8", "full")])
@torch.no_grad()
def test_it_loads_here_with_the_numbers_that_torchao_makes_of_it(tmp_path, storage, products):
    pytest.importorskip("torchao")
    out = quantise("tiny", tmp_path / "low", storage, products=products, dtype="float32")
    report = inspect(out, check=True)
    assert report.ok, report.problems
    assert f"torchao {storage}" in report.to_text() and (products == "full" or "8 bits" in report.to_text())
    network, theirs = load_transformer(out, "float32"), lowered(storage, products)
    for name, weight in theirs.named_parameters():
        ours = network.get_parameter(name)
        quantised = isinstance(ours, QuantisedTensor)
        assert quantised == is_traceable_wrapper_subclass(weight)
        expected = weight.dequantize() if quantised else weight
        torch.testing.assert_close(ours.dequantize() if quantised else ours, expected, rtol=1e-6, atol=1e-9)
    saved = cogvideox.save(cogvideox.load(out, device="cpu"), tmp_path / "plain")
    assert not read_spec(saved).stored_bytes and read_spec(out).stored_bytes
    with pytest.raises(ConfigError, match="quantised already"):
        lower(cogvideox.load(out, device="cpu"), "int8")


@torch.no_grad()
def test_torchao_groups_of_four_bits_load_here(tmp_path):
    pytest.importorskip("torchao")
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    network = load_transformer(find_folder("tiny"), "float32").eval()
    for block in blocks_of(network):
        quantize_(block, IntxWeightOnlyConfig(torch.int4, PerGroup(32)))
    tensors, metadata = flatten_tensor_state_dict(network.state_dict())
    save_file(tensors, tmp_path / "low.safetensors", metadata)
    found = read_network_file(tmp_path / "low.safetensors")
    name = "transformer_blocks.2.ff.net.0.proj.weight"
    torch.testing.assert_close(
        found[name].dequantize(), network.get_parameter(name).dequantize(), rtol=1e-6, atol=1e-9
    )


def _rotary(network, x):
    """What diffusers' pipeline hands over: cosine and sine of the video's positions."""
    if network.rotary is None:
        return {}
    from cogvideox.transformer import Layout

    table = network.rotary.table(Layout.plain(0, network.grid(x)), x.device)[:, 0]
    return {"image_rotary_emb": tuple(each.repeat_interleave(2, 1) for each in (table.real, table.imag))}


def test_the_record_names_source_form_and_error_and_everything_else_is_a_copy(tmp_path):
    pytest.importorskip("torchao")
    out, source = quantise("tiny", tmp_path / "low"), find_folder("tiny")
    made = json.loads((out / "cogvideox.json").read_text())["provenance"]["quantised"]
    assert made["storage"] == "int8" and made["products"] == "full" and made["torchao"]
    assert list(made["of"]) == ["transformer/diffusion_pytorch_model.safetensors"]
    assert 0 < max(made["error"].values()) < 0.02 and "attn1.to_q" in made["error"]
    for file in (source / "vae").iterdir():
        assert file.read_bytes() == (out / "vae" / file.name).read_bytes()
    weights = "diffusion_pytorch_model.safetensors"
    assert (out / "transformer" / weights).stat().st_size < 0.7 * (
        source / "transformer" / weights
    ).stat().st_size
    told = json.loads((out / "transformer" / "config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "torchao" and "proj_out" in told["modules_to_not_convert"]
    with pytest.raises(OutputError):
        quantise("tiny", tmp_path / "low")


def test_bad_requests_are_refused_before_weights_are_read(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="choose int8 or fp8"):
        quantise("tiny", tmp_path / "low", "stored")
    with pytest.raises(ConfigError, match="storage 'int3': unknown"):
        quantise("tiny", tmp_path / "low", "int3")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setattr("cogvideox.quantise.has_torchao", lambda: False)
    with pytest.raises(DependencyError, match="pip install"):
        quantise("tiny", tmp_path / "low")
    assert not (tmp_path / "low").exists()
