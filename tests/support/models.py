"""Every small model of the tests: public variants narrowed, golden fills, model folders, a lone transformer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import save_model
from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.model import CogVideoX
from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec, condition_channels
from cogvideox.text import T5Config, T5Encoder, TextEncoder, train_tokenizer
from cogvideox.transformer import Transformer, TransformerConfig, initialise
from cogvideox.transformer.controlnet import ControlNet, ControlNetConfig
from cogvideox.vae import VAE, VAEConfig
from support.golden import fill, fill_model

VARIANTS = ("2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v")


def small_preset(name: str) -> ModelSpec:
    """A public preset with every width cut down and every choice kept."""
    preset = get_preset(name)
    narrow = dict(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, time_embed_dim=16, text_embed_dim=12
    )
    size = dict(max_text_seq_length=6, sample_frames=9)
    if not preset.transformer_settings.get("patch_size_t"):
        size |= dict(sample_height=8, sample_width=12)
    if preset.transformer_settings.get("ofs_embed_dim"):
        size |= dict(ofs_embed_dim=16)
    vae = dict(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=64,
        sample_width=96,
    )
    return replace(
        preset,
        transformer_settings={**preset.transformer_settings, **narrow, **size},
        vae_settings={**preset.vae_settings, **vae},
    )


def small_model(name: str, dtype: torch.dtype = torch.float32) -> CogVideoX:
    """A model of ``small_preset`` with reproducible random weights and no text encoder."""
    preset = small_preset(name)
    torch.manual_seed(0)
    transformer, vae = Transformer(preset.transformer).eval(), VAE(preset.vae).eval()
    for value in [*transformer.parameters(), *vae.parameters()]:
        value.data = torch.randn_like(value).mul_(0.1).to(dtype)
    schedule = Schedule(preset.schedule)
    return CogVideoX.assemble(transformer, vae, None, schedule, name=name, kind=preset.kind)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Same names, types and bits."""
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in one
    )


TEXT_LEN, TEXT_WIDTH = 5, 24


def golden_model(
    kind: str = "t2v", patch_size_t: int | None = None, shift: float = 1.0, **settings
) -> CogVideoX:
    """2 layers, 4 latent channels, 32x48 pixels, 9 frames; weights are the golden fill."""
    latent = 4
    vae = VAEConfig(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=latent,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
        sample_height=32,
        sample_width=48,
        invert_scale_latents=settings.pop("invert_scale_latents", False),
        first_latent_alone=settings.pop("first_latent_alone", False),
    )
    values = dict(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        in_channels=latent + condition_channels(kind, latent),
        out_channels=latent,
        time_embed_dim=16,
        text_embed_dim=TEXT_WIDTH,
        max_text_seq_length=TEXT_LEN,
        sample_height=4,
        sample_width=6,
        sample_frames=9 if patch_size_t is None else 17,
        patch_size_t=patch_size_t,
        use_rotary_positional_embeddings=True,
    )
    noise = settings.pop("condition_noise", 0.0)
    transformer = Transformer(TransformerConfig(**(values | settings)))
    schedule = Schedule(ScheduleConfig(snr_shift_scale=shift))
    networks = fill_model(transformer), fill_model(VAE(vae))
    return CogVideoX.assemble(*networks, None, schedule, name="toy", kind=kind, condition_noise=noise)


def golden_text() -> dict[str, torch.Tensor]:
    """Embeddings for a prompt and its negative, as arguments of generate."""
    shape = (1, TEXT_LEN, TEXT_WIDTH)
    return {"prompt_embedding": fill("input.text", shape), "negative_embedding": fill("input.neg", shape)}


def golden_frames(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """uint8 [t, h, w, 3]."""
    values = (fill("toy.frames", (frames, height, width, 3)).numpy() + 1) * 127.5
    return values.round().astype(np.uint8)


TOKENS = 8


def write_model_folder(folder: Path, kind: str = "t2v") -> Path:
    """A golden model as a model folder, tokenizer and text encoder included: 32x48 pixels, 9 frames, 8 tokens."""
    model = golden_model(kind, max_text_seq_length=TOKENS)
    captions = [
        f"a {colour} {shape} moves" for colour in ("red", "green", "blue") for shape in ("square", "circle")
    ]
    tokenizer = train_tokenizer(captions * 3, vocabulary=40, max_tokens=TOKENS)
    config = T5Config(
        vocab_size=64,
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=16,
        num_heads=2,
        num_layers=1,
    )
    encoder = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    model.text = TextEncoder(encoder, tokenizer, TOKENS)
    return Path(save_model(model, folder))


def golden_controlnet(out: int | None = 32, **settings) -> ControlNet:
    """A ControlNet of two blocks for golden models, weights the golden fill; ``out``: width of its projectors."""
    values = dict(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, time_embed_dim=16, text_embed_dim=TEXT_WIDTH,
        max_text_seq_length=TEXT_LEN, sample_height=4, sample_width=6, sample_frames=9, vae_channels=4,
        out_proj_dim=out,
    )  # fmt: skip
    return fill_model(ControlNet(ControlNetConfig(**values | settings)))


def write_controlnet(folder: Path, network: ControlNet | None = None) -> Path:
    """A ControlNet in a folder as TheDenk publishes it."""
    network = network or golden_controlnet()
    folder.mkdir(exist_ok=True)
    names = ("use_positional_embeddings", "position_mode", "attention", "experts", "out_channels")
    values = network.config.model_dump(mode="json", exclude=set(names))
    (folder / "config.json").write_text(json.dumps({"_class_name": "CogVideoXControlnet", **values}))
    save_file(network.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return folder


SMALL_TRANSFORMER = dict(
    num_attention_heads=2, attention_head_dim=32, num_layers=2, in_channels=4, out_channels=4,
    time_embed_dim=16, text_embed_dim=12, max_text_seq_length=5, sample_height=8, sample_width=12,
    sample_frames=9, use_rotary_positional_embeddings=True,
)  # fmt: skip
CLIP_SIZES = [(3, 8, 12), (1, 4, 6), (5, 6, 4), (1, 8, 8)]  # two videos and two images, none of one shape
TEXT_LENS = (5, 3, 4, 2)


def small_transformer(**settings) -> Transformer:
    """Two layers with weights that are drawn by number, gates too."""
    network = initialise(Transformer(TransformerConfig(**SMALL_TRANSFORMER | settings)), 0)
    for index, value in enumerate(network.parameters()):  # zero gates would hide what attention does
        torch.nn.init.normal_(value, std=0.05, generator=torch.Generator().manual_seed(index))
    return network


def packed_inputs():
    """Clips, texts and timesteps of one packed sequence: two videos and two images."""
    draw = torch.Generator().manual_seed(1)
    clips = [torch.randn(4, *size, generator=draw) for size in CLIP_SIZES]
    texts = [torch.randn(length, 12, generator=draw) for length in TEXT_LENS]
    return clips, texts, torch.tensor([3, 500, 999, 41])


def gradients(network, outputs) -> dict[str, torch.Tensor]:
    """The gradients of the mean square of some outputs, by parameter."""
    network.zero_grad()
    sum(out.square().mean() for out in outputs).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters()}
