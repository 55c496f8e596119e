"""The table of models: the five public checkpoints and the shipped tiny ones, one ``ModelSpec`` each.

Reading the table loads no torch. A setting that an entry does not name has the default of its config class. Sources:
the released ``config.json`` and ``scheduler_config.json`` files; where the paper's Table 6 disagrees (32 heads, time
width 256 for 2B), the released weights win.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError, suggest
from cogvideox.spec import Condition, ModelSpec, Settings

if TYPE_CHECKING:
    from cogvideox.transformer import TransformerConfig

Preset = ModelSpec
"""The old name of ``ModelSpec``, for one release."""

T5_XXL: Settings = dict(
    vocab_size=32_128, d_model=4096, num_heads=64, d_kv=64, d_ff=10_240, num_layers=24,
    feed_forward_proj="gated-gelu", relative_attention_num_buckets=32,
)  # fmt: skip
T5_OF_THE_WORLD: Settings = dict(
    vocab_size=128, d_model=128, num_heads=4, d_kv=32, d_ff=256, num_layers=2,
    feed_forward_proj="gated-gelu", relative_attention_num_buckets=32,
)  # fmt: skip
_IMAGE = (Condition("image", 16),)

_VAE = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=16,
    block_out_channels=(128, 256, 256, 512),
    layers_per_block=3,
    norm_num_groups=32,
    norm_eps=1e-6,
    temporal_compression_ratio=4,
    sample_height=480,
    sample_width=720,
    scaling_factor=0.7,
    invert_scale_latents=False,
)
_TRANSFORMER = dict(
    num_attention_heads=48,
    attention_head_dim=64,
    num_layers=42,
    in_channels=16,
    out_channels=16,
    flip_sin_to_cos=True,
    freq_shift=0,
    time_embed_dim=512,
    text_embed_dim=4096,
    max_text_seq_length=226,
    patch_size=2,
    temporal_compression_ratio=4,
    sample_height=60,
    sample_width=90,
    sample_frames=49,
    spatial_interpolation_scale=1.875,
    temporal_interpolation_scale=1.0,
    use_rotary_positional_embeddings=True,
    norm_eps=1e-5,
    norm_elementwise_affine=True,
    attention_bias=True,
    activation_fn="gelu-approximate",
    timestep_activation_fn="silu",
    dropout=0.0,
)
_SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    snr_shift_scale=1.0,
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    set_alpha_to_one=True,
    prediction_type="v_prediction",
)
# 1.5: patches of 2x2x2 latents, and a rotary table of 150x150 patches that covers every size
_TRANSFORMER_15 = _TRANSFORMER | dict(
    patch_size_t=2, sample_height=300, sample_width=300, sample_frames=81, patch_bias=False
)

_2B = ModelSpec(
    name="2b",
    height=480,
    width=720,
    frames=49,
    fps=8,
    dtype="float16",
    text_tokens=226,
    licence="Apache-2.0",
    about="CogVideoX-2B: text to 6 s of 480x720 at 8 frames per second; sin-cos positions, SNR shift 3",
    hub="zai-org/CogVideoX-2b",
    download_gb=13.3,
    vae_settings=_VAE | dict(scaling_factor=1.15258426),
    transformer_settings=_TRANSFORMER
    | dict(num_attention_heads=30, num_layers=30, use_rotary_positional_embeddings=False),
    schedule_settings=_SCHEDULE | dict(snr_shift_scale=3.0),
    text_settings=T5_XXL,
)
_5B = replace(
    _2B,
    name="5b",
    dtype="bfloat16",
    licence="CogVideoX licence",
    about="CogVideoX-5B: text to 6 s of 480x720 at 8 frames per second; rotary positions",
    hub="zai-org/CogVideoX-5b",
    download_gb=21.1,
    vae_settings=_VAE,
    transformer_settings=_TRANSFORMER,
    schedule_settings=_SCHEDULE,
)
_5B_I2V = replace(
    _5B,
    name="5b-i2v",
    conditions=_IMAGE,
    about="CogVideoX-5B-I2V: an image and text to 6 s of 480x720; rotary and learned positions",
    hub="zai-org/CogVideoX-5b-I2V",
    download_gb=21.2,
    transformer_settings=_TRANSFORMER | dict(in_channels=32, use_learned_positional_embeddings=True),
)
_15_5B = replace(
    _5B,
    name="1.5-5b",
    height=768,
    width=1360,
    frames=81,
    fps=16,
    text_tokens=224,
    about="CogVideoX1.5-5B: text to 5 or 10 s of 768x1360 at 16 frames per second",
    hub="zai-org/CogVideoX1.5-5B",
    vae_settings=_VAE | dict(invert_scale_latents=True),
    transformer_settings=_TRANSFORMER_15,
)
_15_5B_I2V = replace(
    _15_5B,
    name="1.5-5b-i2v",
    conditions=_IMAGE,
    about="CogVideoX1.5-5B-I2V: an image and text to 5 or 10 s, short side 768, at 16 frames per second",
    hub="zai-org/CogVideoX1.5-5B-I2V",
    transformer_settings=_TRANSFORMER_15 | dict(in_channels=32, ofs_embed_dim=512),
)
_TINY = replace(
    _5B,
    name="tiny",
    height=64,
    width=64,
    frames=17,
    fps=8,
    dtype="float32",
    text_tokens=32,
    licence="Apache-2.0",
    about="the shipped model of the tiny world: 17 frames of 64x64 moving shapes, seconds on a laptop CPU",
    hub=None,
    download_gb=None,
    guidance=2.0,  # from 2 to 3.5 the same facts come out right; more bends outlines
    text_settings=T5_OF_THE_WORLD,
    vae_settings=_VAE
    | dict(
        block_out_channels=(24, 48, 96, 96),
        layers_per_block=1,
        norm_num_groups=8,
        sample_height=64,
        sample_width=64,
        scaling_factor=1.0,
    ),
    transformer_settings=_TRANSFORMER
    | dict(
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=6,
        time_embed_dim=128,
        text_embed_dim=128,
        max_text_seq_length=32,
        patch_size=1,  # its latents are 8x8: a patch of 2 would be a quarter of a shape
        sample_height=8,
        sample_width=8,
        sample_frames=17,
    ),
)
_TINY_BASE = replace(
    _TINY,
    name="tiny-base",
    about="the shipped model before it was distilled: many steps with guidance; fine-tuning starts from it",
)
_TINY_I2V = replace(
    _TINY,
    name="tiny-i2v",
    conditions=_IMAGE,
    about="the shipped image-to-video model of the tiny world: 17 frames of 64x64 from an image and text",
    guidance=2.5,
    transformer_settings=dict(_TINY.transformer_settings) | dict(in_channels=32),
)


def _arm(name: str, about: str, **settings: Any) -> ModelSpec:
    """An ablation of the tiny model: some settings of its transformer changed."""
    return replace(
        _TINY, name=name, about=about, transformer_settings={**_TINY.transformer_settings, **settings}
    )


_MMDIT = {"norm": True, "weights": True}
_ARMS = (
    _arm("tiny-no-experts", "tiny, text and video share their modulation (Fig. 8a)", experts={"norm": False}),
    _arm(
        "tiny-mmdit1",
        "tiny as MMDiT of the same size: 4 layers (Fig. 8a, MMDiT1)",
        experts=_MMDIT,
        num_layers=4,
    ),
    _arm(
        "tiny-mmdit2",
        "tiny as MMDiT of the same depth: 1.6 times the weights (Fig. 8a, MMDiT2)",
        experts=_MMDIT,
    ),
    _arm(
        "tiny-split", "tiny with 2D + 1D attention instead of 3D full attention (Fig. 8b)", attention="split"
    ),
    _arm(
        "tiny-sinusoidal",
        "tiny with sin-cos positions instead of rotary ones (Fig. 10a)",
        use_rotary_positional_embeddings=False,
    ),
)

PRESETS: dict[str, ModelSpec] = {
    preset.name: preset
    for preset in (_2B, _5B, _5B_I2V, _15_5B, _15_5B_I2V, _TINY, _TINY_BASE, _TINY_I2V, *_ARMS)
}
"""Every model by name."""


def get_preset(name: str) -> ModelSpec:
    """The model called ``name``; raises ConfigError with a suggestion when there is none."""
    if name not in PRESETS:
        raise ConfigError(
            f"preset {name!r}: no such model{suggest(name, PRESETS)}; one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def guess_preset(transformer: TransformerConfig) -> str:
    """The preset with this network, "" when there is none; sizes of position tables do not count."""
    wanted = network_of(transformer)
    return next((name for name, spec in PRESETS.items() if network_of(spec.transformer) == wanted), "")


def network_of(config: TransformerConfig) -> tuple[Any, ...]:
    """The settings that tell one network from another; sizes of position tables do not count."""
    return (
        config.width, config.num_attention_heads, config.num_layers, config.in_channels, config.patch_size_t,
        config.ofs_embed_dim, config.text_embed_dim, config.position, config.attention, config.experts,
    )  # fmt: skip
