"""Adapters of every variant of PEFT give the numbers that diffusers and PEFT give, and ours give them there."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints import (
    convert,
    load_lora,
    load_model,
    merge_lora,
    read_adapter,
    save_lora,
    save_model,
    scale_lora,
    unload_lora,
)
from parity.test_checkpoints import ours, theirs
from support.models import small_model, small_preset

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [
    *ATTENTION,
    "ff.net.0.proj",
    "ff.net.2",
    "norm1.linear",
    "norm2.linear",
    "norm_out.linear",
    "proj_out",
    "patch_embed.proj",
    "text_proj",
    "linear_1",
    "linear_2",
]
VARIANTS = {
    "plain": {},
    "dora": {"use_dora": True},
    "biases": {"lora_bias": True},
    "rank-stabilised": {"use_rslora": True},
    "layers of their own": {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {r"attn1\.to_k": 5.0}},
    "everything": {"target_modules": EVERYTHING},
    "everything dora": {"target_modules": EVERYTHING, "use_dora": True},
    "everything biases": {"target_modules": EVERYTHING, "lora_bias": True},
}


def close(one, two):
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def their_transformer(model, name="5b"):
    transformer = diffusers.CogVideoXTransformer3DModel(**small_preset(name).transformer_settings)
    transformer.load_state_dict(model.transformer.state_dict())
    return transformer.eval()


def randomised(transformer, size=0.3):
    torch.manual_seed(5)
    for key, value in transformer.named_parameters():
        if "lora_" in key:
            value.data.add_(torch.randn_like(value) * size)


def saved_by_diffusers(model, folder, name="5b", **settings):
    """Their transformer with a random adapter, which is in ``folder``."""
    transformer = their_transformer(model, name)
    transformer.add_adapter(
        peft.LoraConfig(
            **{"r": 4, "lora_alpha": 3, "init_lora_weights": False, "target_modules": ATTENTION, **settings}
        )
    )
    randomised(transformer)
    diffusers.CogVideoXPipeline.save_lora_weights(
        str(folder),
        transformer_lora_layers=peft.get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    return transformer.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_of_diffusers_gives_the_same_output_here(variant, tmp_path):
    model = small_model("5b")
    before, weights = ours(model), {k: v.clone() for k, v in model.transformer.state_dict().items()}
    transformer = saved_by_diffusers(model, tmp_path, **VARIANTS[variant])
    load_lora(model, tmp_path)
    expected = theirs(transformer, model)
    close(ours(model), expected)
    assert not torch.allclose(ours(model), before, atol=1e-3)
    unload_lora(model)
    assert torch.equal(ours(model), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.transformer.state_dict().items())
    load_lora(model, tmp_path)
    merge_lora(model)
    torch.testing.assert_close(ours(model), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["dora", "biases", "everything dora", "everything biases"])
def test_an_adapter_written_here_gives_the_same_output_there(variant, tmp_path):
    model = small_model("5b")
    saved_by_diffusers(model, tmp_path / "theirs", **VARIANTS[variant])
    load_lora(model, tmp_path / "theirs")
    save_lora(model, tmp_path / "ours")
    plain = save_model(small_model("5b"), tmp_path / "m")
    pipe = diffusers.CogVideoXPipeline.from_pretrained(str(plain), text_encoder=None, tokenizer=None)
    pipe.load_lora_weights(str(tmp_path / "ours"))
    close(theirs(pipe.transformer, model), ours(model))
    again = read_adapter(tmp_path / "ours").pairs
    first = read_adapter(tmp_path / "theirs").pairs
    assert again.keys() == first.keys()
    for layer, pair in first.items():
        for field in ("a", "b", "bias", "magnitude"):
            mine, other = getattr(again[layer], field), getattr(pair, field)
            assert (mine is None) == (other is None) and (mine is None or torch.equal(mine, other))


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_dora_over_another_adapter_and_at_other_strengths_is_what_peft_makes_of_it(scale, tmp_path):
    model = small_model("5b")
    saved_by_diffusers(model, tmp_path / "a", r=3)
    saved_by_diffusers(model, tmp_path / "b", use_dora=True, target_modules=EVERYTHING)
    transformer = their_transformer(model)
    for name in ("a", "b"):
        file = tmp_path / name / "pytorch_lora_weights.safetensors"
        pairs = {key.removeprefix("transformer."): value for key, value in load_file(file).items()}
        settings = dict(r=3) if name == "a" else dict(r=4, use_dora=True)
        targets = ATTENTION if name == "a" else EVERYTHING
        config = peft.LoraConfig(lora_alpha=3, target_modules=targets, **settings)
        transformer.add_adapter(config, adapter_name=name)
        peft.set_peft_model_state_dict(transformer, pairs, adapter_name=name)
    transformer.set_adapters(["a", "b"], weights=[1.0, scale])
    load_lora(model, tmp_path / "a", name="a")
    load_lora(model, tmp_path / "b", 0.7, name="b")
    scale_lora(model, scale, "b")
    close(ours(model), theirs(transformer.eval(), model))


def test_the_patch_layer_of_the_newer_models_is_linear_and_read_so(tmp_path):
    model = small_model("1.5-5b")
    transformer = saved_by_diffusers(model, tmp_path, "1.5-5b", target_modules=EVERYTHING)
    load_lora(model, tmp_path)
    close(ours(model), theirs(transformer, model))


def test_an_extracted_difference_is_used_at_its_rank_as_it_was_made(tmp_path):
    """finetrainers' extraction: a decomposition of W2 - W1, the convolution among them, and no alpha."""
    model, changed = small_model("5b"), small_model("5b")
    torch.manual_seed(8)
    tensors = {}
    for layer in ("patch_embed.proj", "transformer_blocks.1.attn1.to_q"):
        weight = changed.transformer.get_submodule(layer).weight
        a, b = torch.randn(4, weight[0].numel()) * 0.1, torch.randn(len(weight), 4) * 0.1
        weight.data += (b @ a).reshape(weight.shape)
        ones = (1,) * (weight.ndim - 2)
        tensors[f"transformer.{layer}.lora_A.weight"] = a.reshape(4, *weight.shape[1:])
        tensors[f"transformer.{layer}.lora_B.weight"] = b.reshape(len(weight), 4, *ones)
    save_file(tensors, tmp_path / "extracted.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = load_lora(model, tmp_path / "extracted.safetensors")
    close(ours(model), ours(changed))
    assert "extracted" in adapter.origin and "alpha = rank" in adapter.alpha_from


@pytest.mark.parametrize("variant", ["plain", "everything dora", "rank-stabilised"])
def test_a_folder_with_adapters_in_its_weights_is_loaded_by_diffusers(variant, tmp_path):
    model = small_model("5b")
    saved_by_diffusers(model, tmp_path / "a", **VARIANTS[variant])
    saved_by_diffusers(small_model("5b"), tmp_path / "b", r=3)
    plain = save_model(model, tmp_path / "model")
    fused = convert(plain, tmp_path / "fused", lora=[(tmp_path / "a", 1.0), (tmp_path / "b", 0.4)])
    for name, scale in (("a", 1.0), ("b", 0.4)):
        load_lora(model, tmp_path / name, scale, name=name)
    pipe = diffusers.CogVideoXPipeline.from_pretrained(str(fused), text_encoder=None, tokenizer=None)
    expected = ours(model)
    torch.testing.assert_close(theirs(pipe.transformer, model), expected, atol=1e-4, rtol=1e-4)
    again = load_model(fused, device="cpu")
    torch.testing.assert_close(ours(again), expected, atol=1e-4, rtol=1e-4)
    assert not again.adapters, "they are part of the weights"
    if variant == "plain":
        pipe = diffusers.CogVideoXPipeline.from_pretrained(str(plain), text_encoder=None, tokenizer=None)
        for name in ("a", "b"):
            pipe.load_lora_weights(str(tmp_path / name), adapter_name=name)
        pipe.set_adapters(["a", "b"], [1.0, 0.4])
        pipe.fuse_lora(adapter_names=["a", "b"], components=["transformer"])
        torch.testing.assert_close(theirs(pipe.transformer, model), expected, atol=1e-4, rtol=1e-4)
