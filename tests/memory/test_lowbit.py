"""Weights in one byte and products in 8 bits, where torchao is installed; a clear word where it is not."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from typer.testing import CliRunner

from cogvideox.checkpoints import add_lora, merge_lora, unload_lora
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, ConfigError, DependencyError
from cogvideox.generation.job import Job
from cogvideox.generation.preflight import fit, plan_memory
from cogvideox.memory import Policy, lower
from cogvideox.memory.lowbit import check_low_bits, read_low_bits
from cogvideox.memory.offload import install
from cogvideox.memory.weights import low_bit_bytes
from support.models import golden_model


def test_without_torchao_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(DependencyError, match="pip install"):
        lower(golden_model(), "int8")


def test_fp8_needs_a_card():
    with pytest.raises(ConfigError, match="capability 8.9"):
        lower(golden_model(), "fp8")


def test_stored_changes_nothing():
    model = golden_model()
    assert lower(model, "stored") is model


def forward(model):
    config = model.transformer.config
    torch.manual_seed(0)
    x, text = torch.randn(1, config.in_channels, 3, 4, 6), torch.randn(1, 5, config.text_embed_dim)
    with torch.no_grad():
        return model.transformer(x, text, torch.tensor([500]))


def test_int8_is_close_and_streams_to_the_same_bits():
    pytest.importorskip("torchao")
    plain = forward(golden_model())
    low = forward(lower(golden_model(), "int8"))
    assert 0 < (low - plain).norm() / plain.norm() < 0.05
    streamed = forward(install(lower(golden_model(), "int8"), torch.device("cpu"), stream=True))
    assert torch.equal(streamed, low)


@pytest.mark.parametrize("products", ["full", "int8"])
@torch.no_grad()
def test_adapters_leave_every_layer_of_the_blocks_in_one_byte(products):
    pytest.importorskip("torchao")
    model = golden_model()
    add_lora(model, rank=2, targets=("to_q", "ff.net.2"))
    for layer in model.transformer.modules():
        for matrix in getattr(layer, "lora_B", {}).values():
            matrix.copy_(torch.randn_like(matrix) * 0.1)
    plain = forward(model)
    low = forward(lower(model, "int8", products=products))
    assert 0 < (low - plain).norm() / plain.norm() < 0.05
    kept = [
        name
        for block in model.transformer.transformer_blocks
        for name, layer in block.named_modules()
        if isinstance(layer, torch.nn.Linear) and not is_traceable_wrapper_subclass(layer.weight)
    ]
    assert not kept
    with pytest.raises(CheckpointError, match="merge before"):
        merge_lora(model)
    unload_lora(model)
    alone = forward(model)
    assert torch.equal(alone, forward(lower(golden_model(), "int8", products=products)))


def test_predicted_bytes_of_int8():
    linear = torch.nn.Linear(64, 32)
    assert low_bit_bytes(linear) == 64 * 32 + 4 * 32 + 4 * 32


@torch.no_grad()
def test_int8_products_are_further_than_int8_weights_and_stream_to_the_same_bits():
    pytest.importorskip("torchao")
    plain = forward(golden_model())
    weights = forward(lower(golden_model(), "int8"))
    products = forward(lower(golden_model(), "int8", products="int8"))
    distance = [float((each - plain).norm() / plain.norm()) for each in (weights, products)]
    assert 0 < distance[0] < distance[1] < 0.05
    streamed = lower(golden_model(), "int8", products="int8")
    assert torch.equal(forward(install(streamed, torch.device("cpu"), stream=True)), products)


@torch.no_grad()
def test_int8_products_are_those_of_rounded_tokens_and_rows():
    """By hand: a scale for each token and one for each output, both symmetric; the sum is that of whole numbers."""
    pytest.importorskip("torchao")
    from cogvideox.memory.lowbit import quantise

    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(3, 64)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    quantise(torch.nn.Sequential(layer), "int8", "int8")

    def rounded(rows):
        scale = rows.abs().amax(1, keepdim=True) / 127.5
        return (rows / scale).round().clamp(-128, 127), scale

    (a, a_scale), (b, b_scale) = rounded(x), rounded(weight)
    by_hand = a @ b.T * a_scale * b_scale.T + bias
    assert (layer(x) - by_hand).abs().max() < 2e-3 * by_hand.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("storage", ["int8", "fp8"])
def test_rows_of_zeros_stay_zeros(storage):
    """The last block of a trained model has some: its text is not read any more. torchao's fp8 makes NaN of them."""
    pytest.importorskip("torchao")
    from cogvideox.memory.lowbit import quantise

    layer = torch.nn.Linear(16, 8, bias=False)
    layer.weight[3:5] = 0
    plain = layer.weight.clone()
    quantise(torch.nn.Sequential(layer), storage)
    found = layer.weight.dequantize()
    assert not found[3:5].any() and (found - plain).abs().max() < 0.05 * plain.abs().max()


def test_only_the_transformer_multiplies_in_8_bits():
    pytest.importorskip("torchao")
    from cogvideox import load

    model = lower(load("tiny"), "int8", products="int8")
    layers = [each for each in model.text.model.modules() if isinstance(each, torch.nn.Linear)]
    low = [each.weight for each in layers if is_traceable_wrapper_subclass(each.weight)]
    assert low and all(weight.act_quant_kwargs is None for weight in low)
    weight = model.transformer.transformer_blocks[0].attn1.to_q.weight
    assert weight.act_quant_kwargs is not None


@pytest.mark.parametrize(
    "storage, products, message",
    [
        ("int7", "full", "storage 'int7': unknown"),
        ("auto", "int4", "products 'int4': unknown"),
        ("stored", "int8", "int8 products need int8 weights; leave storage out"),
        ("fp8", "int8", "int8 products need int8 weights"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_asked_for(storage, products, message):
    with pytest.raises(ConfigError, match=message):
        read_low_bits(storage, products)
    with pytest.raises(ConfigError, match=message):
        Job(storage=storage, products=products)
    with pytest.raises(ConfigError, match=message):
        plan_memory("tiny", storage=storage, products=products)


def test_fp8_products_are_refused_before_weights_are_loaded():
    request = plan_memory("tiny", device="cpu").request
    with pytest.raises(ConfigError, match="fp8 products on cpu: needs an NVIDIA card of capability 8.9"):
        fit(request, "auto", None, products="fp8")


def test_int8_products_without_torchao_are_refused_before_weights_are_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(DependencyError, match=r"pip install 'cogvideox\[lowp\]'"):
        check_low_bits("int8", "int8", "cpu")


def test_a_plan_for_products_counts_one_byte_a_weight_and_says_what_it_costs():
    plain = plan_memory("5b", device="cuda", memory_limit="40GB")
    found = plan_memory("5b", device="cuda", memory_limit="40GB", products="fp8")
    assert {option.policy.storage for option in found.options} == {"fp8"}
    assert found.options[0].peak < plain.options[0].peak - 9e9
    policy = found.options[0].policy
    assert policy.name == "all resident, fp8 products" and "rounded activations" in policy.price
    assert policy.record()["products"] == "fp8" and "products" not in Policy().record()


def test_a_training_is_told_where_its_storage_stands():
    done = CliRunner().invoke(app, ["plan", "5b", "--train", "lora", "--device", "cuda", "--storage", "int8"])
    assert done.exit_code == 2 and "task.lora.base=int8" in done.stderr
