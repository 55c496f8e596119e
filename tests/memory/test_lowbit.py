"""Weights in one byte, where torchao is installed; a clear word where it is not."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cogvideox.checkpoints import add_lora, merge_lora, unload_lora
from cogvideox.errors import CheckpointError, ConfigError, DependencyError
from cogvideox.memory import lower
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


@torch.no_grad()
def test_adapters_leave_every_layer_of_the_blocks_in_one_byte():
    pytest.importorskip("torchao")
    model = golden_model()
    add_lora(model, rank=2, targets=("to_q", "ff.net.2"))
    for layer in model.transformer.modules():
        for matrix in getattr(layer, "lora_B", {}).values():
            matrix.copy_(torch.randn_like(matrix) * 0.1)
    plain = forward(model)
    low = forward(lower(model, "int8"))
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
    assert torch.equal(alone, forward(lower(golden_model(), "int8")))


def test_predicted_bytes_of_int8():
    linear = torch.nn.Linear(64, 32)
    assert low_bit_bytes(linear) == 64 * 32 + 4 * 32 + 4 * 32
