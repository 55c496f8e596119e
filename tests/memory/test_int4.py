"""Weights in 4 bits, ours on every device: ggml's rounding, the same numbers streamed, adapters kept, bytes counted."""

from __future__ import annotations

import builtins

import pytest
import torch
from typer.testing import CliRunner

from cogvideox.checkpoints.lora import add_lora, scale_lora
from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.files.gguf_blocks import to_int4
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.memory import Request, lower, plan
from cogvideox.memory.offload import install
from cogvideox.memory.weights import TextShape, blocks_of, bytes_of, weigh
from support.models import golden_model


@pytest.fixture(autouse=True)
def without_torchao(monkeypatch):
    real = builtins.__import__

    def imported(name, *rest, **more):
        if name.split(".")[0] == "torchao":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", imported)


def model():
    return golden_model(num_attention_heads=2, attention_head_dim=32, time_embed_dim=64, text_embed_dim=64)


def answer(network):
    config = network.config
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.in_channels, 3, 4, 6, generator=generator)
    with torch.no_grad():
        return network(x, torch.randn(1, 5, config.text_embed_dim, generator=generator), torch.tensor([500]))


def test_rounding_is_that_of_ggml():
    gguf = pytest.importorskip("gguf")
    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    ours = to_int4(weight)
    theirs = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0)
    assert (ours.inner_tensors["packed"].numpy() == theirs).all() and (ours.dequantize()[3] == 0).all()
    assert float((ours.dequantize() - weight).abs().max()) < 0.3
    with pytest.raises(ConfigError, match="rows of 40"):
        to_int4(torch.zeros(4, 40))


def test_blocks_are_stored_in_int4_and_streamed_to_the_bit():
    plain, resident, streamed = model(), lower(model(), "int4"), lower(model(), "int4")
    weight = resident.transformer.transformer_blocks[0].ff.net[2].weight
    assert isinstance(weight, QuantisedTensor) and weight.dtype == torch.float32
    assert not isinstance(resident.transformer.proj_out.weight, QuantisedTensor)
    expected, full = answer(resident.transformer), answer(plain.transformer)
    assert 0 < (expected - full).norm() / full.norm() < 0.2
    install(streamed, torch.device("cpu"), stream=True, pin=lambda memory: lambda: None)
    for _ in range(2):
        assert torch.equal(answer(streamed.transformer), expected)
    with pytest.raises(ConfigError, match="quantised already"):
        lower(resident, "int8")


def test_adapters_stay_on_top():
    lowered = model()
    add_lora(lowered, rank=2)
    layer = lowered.transformer.transformer_blocks[0].attn1.to_q
    with torch.no_grad():
        layer.lora_B["default"].fill_(0.3)
    with_adapter = answer(lowered.transformer)
    lower(lowered, "int4")
    found = answer(lowered.transformer)
    assert isinstance(layer.weight, QuantisedTensor)
    assert 0 < (found - with_adapter).norm() / with_adapter.norm() < 0.2
    scale_lora(lowered, 0.0)
    assert not torch.equal(found, answer(lowered.transformer))


def test_plan_counts_them_and_needs_no_library():
    network = model()
    request = Request(
        spec=network.spec, frames=9, latents=3, height=32, width=48, dtype=torch.float32, tables=False
    )
    counted = weigh(request, None, "int4").transformer
    lower(network, "int4")
    (first, *_) = blocks_of(network.transformer)
    packed = sum(
        sum(part.nbytes for part in weight.inner_tensors.values()) - weight.nbytes
        for weight in first.parameters()
        if isinstance(weight, QuantisedTensor)
    )
    assert counted.block == bytes_of(first) + packed < 0.4 * bytes_of(first)
    (option,) = plan(request, None, "resident", low_bit=False, storage="int4").options[:1]
    assert option.policy.storage == "int4" and option.fits and not option.needs
    assert (
        TextShape.of({}).network(torch.bfloat16, "int4").block
        < 0.3 * TextShape.of({}).network(torch.bfloat16).block
    )


def test_the_command_makes_a_video_of_them(tmp_path):
    words = [
        "generate",
        "a red circle moves to the right",
        "--storage",
        "int4",
        "--steps",
        "1",
        "--frames",
        "5",
    ]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--out", str(tmp_path / "made.mp4")])
    assert done.exit_code == 0, done.stderr
    assert '"storage": "int4"' in (tmp_path / "made.json").read_text()
