"""Folders and adapters cross over: diffusers reads what we write, we read what diffusers and PEFT write."""

from __future__ import annotations

import pytest
import torch

from cogvideox.checkpoints import (
    load_lora,
    load_model,
    load_schedule,
    load_transformer,
    save_lora,
    save_model,
)
from cogvideox.checkpoints.lora import add_lora, merge_lora, unload_lora
from support.models import VARIANTS, same, small_model, small_preset

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")


def inputs(model):
    torch.manual_seed(0)
    config = model.transformer.config
    frames = 4 if config.patch_size_t else 3
    latents = torch.randn(1, config.in_channels, frames, 8, 12)
    return latents, torch.randn(1, 6, config.text_embed_dim), torch.tensor([437.0])


@torch.no_grad()
def ours(model):
    latents, text, time = inputs(model)
    return model.transformer(latents, text, time)


@torch.no_grad()
def theirs(transformer, model):
    latents, text, time = inputs(model)
    config = model.transformer.config
    rotary = None
    if config.use_rotary_positional_embeddings:
        rotary = _rotary(config, latents.shape[2])
    ofs = torch.full((1,), 2.0) if config.ofs_embed_dim else None
    out = transformer(
        latents.transpose(1, 2), text, time, ofs=ofs, image_rotary_emb=rotary, return_dict=False
    )[0]
    return out.transpose(1, 2)


def _rotary(config, frames):
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    grid = (8 // config.patch_size, 12 // config.patch_size)
    if config.patch_size_t is None:
        return get_3d_rotary_pos_embed(config.attention_head_dim, ((0, 0), grid), grid, frames)
    size = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
    return get_3d_rotary_pos_embed(
        config.attention_head_dim, None, grid, frames // config.patch_size_t, grid_type="slice", max_size=size
    )


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_diffusers_loads_our_folder_and_gives_the_same_output(name, tmp_path):
    model = small_model(name)
    path = save_model(model, tmp_path / "m", shard_size=50_000)
    kind = (
        diffusers.CogVideoXImageToVideoPipeline if model.spec.kind == "i2v" else diffusers.CogVideoXPipeline
    )
    pipeline = kind.from_pretrained(str(path), text_encoder=None, tokenizer=None)
    assert (
        type(diffusers.DiffusionPipeline.from_pretrained(str(path), text_encoder=None, tokenizer=None))
        is kind
    )
    close(theirs(pipeline.transformer, model), ours(model))
    assert same(pipeline.vae.state_dict(), model.vae.state_dict())
    assert pipeline.vae.config.scaling_factor == model.vae.config.scaling_factor
    alphas = pipeline.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(alphas, model.schedule.alpha_bar, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_we_load_what_diffusers_saves(name, tmp_path):
    preset = small_preset(name)
    torch.manual_seed(1)
    settings = {key: value for key, value in preset.transformer_settings.items()}
    transformer = diffusers.CogVideoXTransformer3DModel(**settings)
    transformer.save_pretrained(str(tmp_path / "transformer"), max_shard_size="60KB")
    vae = {
        **preset.vae_settings,
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    }
    diffusers.AutoencoderKLCogVideoX(**vae).save_pretrained(str(tmp_path / "vae"), variant="fp16")
    scheduler = diffusers.CogVideoXDDIMScheduler(**preset.schedule_settings)
    scheduler.save_pretrained(str(tmp_path / "scheduler"))
    loaded = load_transformer(tmp_path)
    assert same(dict(loaded.state_dict()), dict(transformer.state_dict()))
    model = small_model(name)
    model.transformer = loaded
    close(theirs(transformer.eval(), model), ours(model))
    alphas = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(load_schedule(tmp_path).alpha_bar, alphas, atol=1e-6, rtol=1e-4)


def test_a_whole_pipeline_crosses_both_ways(tmp_path):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    from cogvideox.text import train_tokenizer

    model = small_model("5b")
    words = [
        f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("square", "circle", "ball")
    ]
    train_tokenizer(words * 3, vocabulary=40, max_tokens=6).write(tmp_path / "t5" / "tokenizer")
    tokenizer = T5Tokenizer.from_pretrained(str(tmp_path / "t5" / "tokenizer"))
    config = T5Config(
        vocab_size=64, d_model=12, d_kv=6, d_ff=16, num_heads=2, num_layers=1, feed_forward_proj="gated-gelu"
    )
    transformer = diffusers.CogVideoXTransformer3DModel(**small_preset("5b").transformer_settings)
    transformer.load_state_dict(model.transformer.state_dict())
    vae = diffusers.AutoencoderKLCogVideoX(**small_preset("5b").vae_settings)
    vae.load_state_dict(model.vae.state_dict())
    scheduler = diffusers.CogVideoXDDIMScheduler(**small_preset("5b").schedule_settings)
    pipeline = diffusers.CogVideoXPipeline(
        tokenizer, T5EncoderModel(config).eval(), vae, transformer, scheduler
    )
    pipeline.save_pretrained(str(tmp_path / "theirs"))
    loaded = load_model(tmp_path / "theirs")
    assert torch.equal(ours(loaded), ours(model))
    again = diffusers.CogVideoXPipeline.from_pretrained(str(save_model(loaded, tmp_path / "ours")))
    assert same(dict(again.transformer.state_dict()), dict(transformer.state_dict()))
    with torch.no_grad():
        ids = again.tokenizer(["red ball"], padding="max_length", max_length=6, return_tensors="pt").input_ids
        embedded = again.text_encoder(ids)[0]
    close(loaded.text.encode(["red ball"]).values, embedded)


def test_a_peft_adapter_gives_the_same_output_in_ours(tmp_path):
    model = small_model("5b")
    transformer = diffusers.CogVideoXTransformer3DModel(**small_preset("5b").transformer_settings)
    transformer.load_state_dict(model.transformer.state_dict())
    config = peft.LoraConfig(
        r=4, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    torch.manual_seed(5)
    transformer.add_adapter(config)
    for key, value in transformer.named_parameters():
        if "lora_" in key:
            value.data.mul_(10)
    layers = peft.get_peft_model_state_dict(transformer)
    metadata = transformer.peft_config["default"].to_dict()
    diffusers.CogVideoXPipeline.save_lora_weights(
        str(tmp_path), transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
    )
    before = ours(model)
    load_lora(model, tmp_path)
    assert not torch.allclose(ours(model), before, atol=1e-3)
    close(ours(model), theirs(transformer.eval(), model))
    unload_lora(model)
    assert torch.equal(ours(model), before)


@pytest.mark.parametrize("alpha", [4.0, 2.0, 7.0])
def test_our_adapter_gives_the_same_output_in_diffusers(alpha, tmp_path):
    model = small_model("5b")
    path = save_model(model, tmp_path / "m")
    torch.manual_seed(6)
    for matrix in add_lora(model, rank=4, alpha=alpha):
        matrix.data.add_(torch.randn_like(matrix) * 0.3)
    save_lora(model, tmp_path / "lora")
    pipeline = diffusers.CogVideoXPipeline.from_pretrained(str(path), text_encoder=None, tokenizer=None)
    pipeline.load_lora_weights(str(tmp_path / "lora"))
    close(theirs(pipeline.transformer, model), ours(model))
    merge_lora(model)
    close(theirs(pipeline.transformer, model), ours(model))
