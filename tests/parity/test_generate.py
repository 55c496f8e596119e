"""Whole runs against the public pipelines (diffusers), and against golden numbers those pipelines made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideox.conditioning import Coder, Conditioning, from_pictures, from_video
from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.generation import GenerateOptions, Noises, generate, sample_latents
from cogvideox.model import CogVideoX
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.vae import VAE, VAEConfig
from cogvideox.video import Video
from support.golden import fill, fill_model, summary
from support.models import golden_frames, golden_model, golden_text

diffusers = pytest.importorskip("diffusers")

CLOSE = dict(atol=1e-4, rtol=0)


# the same weights on both sides, run from the same noise


def pipeline(model: CogVideoX, sampler: str, kind: str, shift: float = 1.0):
    """The public pipeline with the weights of ``model``; ``kind`` names the pipeline's class."""
    config = model.transformer.config
    names = set(diffusers.CogVideoXTransformer3DModel.__init__.__wrapped__.__code__.co_varnames)
    transformer = diffusers.CogVideoXTransformer3DModel(
        **{name: value for name, value in config.model_dump().items() if name in names}
    )
    transformer.load_state_dict(model.transformer.state_dict())
    released = {k: v for k, v in model.vae.config.released().items() if not k.startswith("_")}
    names = set(diffusers.AutoencoderKLCogVideoX.__init__.__wrapped__.__code__.co_varnames)
    vae = diffusers.AutoencoderKLCogVideoX(**{k: v for k, v in released.items() if k in names})
    vae.load_state_dict(model.vae.state_dict())
    scheduler = {"ddim": "CogVideoXDDIMScheduler", "dpmpp_sde": "CogVideoXDPMScheduler"}[sampler]
    scheduler = getattr(diffusers, scheduler)(
        snr_shift_scale=shift,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
    )
    cls = {
        "t2v": "CogVideoXPipeline",
        "i2v": "CogVideoXImageToVideoPipeline",
        "v2v": "CogVideoXVideoToVideoPipeline",
    }
    pipe = getattr(diffusers, cls[kind])(
        tokenizer=None, text_encoder=None, vae=vae.eval(), transformer=transformer.eval(), scheduler=scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe, seed: int, **settings) -> torch.Tensor:
    """Latents [b, c, t, h, w], padding included."""
    text = golden_text()
    size = {} if "video" in settings else {"num_frames": settings.pop("num_frames")}
    out = pipe(
        prompt_embeds=text["prompt_embedding"],
        negative_prompt_embeds=text["negative_embedding"],
        height=32,
        width=48,
        guidance_scale=6.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        return_dict=False,
        **size,
        **settings,
    )[0]
    return out.transpose(1, 2)


def ours(model: CogVideoX, options: GenerateOptions, seed: int, **given) -> tuple[torch.Tensor, Video]:
    """The latents that are decoded (without padding), and the video."""
    seen, decode = [], model.stream_decode
    model.stream_decode = lambda latents, *more: seen.append(latents) or decode(latents, *more)
    video = generate(model, options, generator=torch.Generator().manual_seed(seed), **golden_text(), **given)
    return seen[0], video


@pytest.mark.parametrize("patch_size_t", [None, 2], ids=["1.0", "1.5"])
@pytest.mark.parametrize(
    ("sampler", "schedule"), [("ddim", "constant"), ("ddim", "wave"), ("dpmpp_sde", "wave")]
)
def test_text_to_video_equals_the_public_pipeline(sampler, schedule, patch_size_t):
    model = golden_model(patch_size_t=patch_size_t)
    frames = model.spec.frames
    expected = theirs(
        pipeline(model, sampler, "t2v"),
        3,
        num_frames=frames,
        num_inference_steps=4,
        use_dynamic_cfg=schedule == "wave",
    )
    options = GenerateOptions(steps=4, sampler=sampler, guidance_schedule=schedule)
    latents, video = ours(model, options, 3)
    torch.testing.assert_close(latents, expected[:, :, expected.shape[2] - latents.shape[2] :], **CLOSE)
    assert len(video) == frames


@pytest.mark.parametrize("steps", [7, 3])
def test_steps_that_do_not_divide_the_schedule_are_equal_too(steps):
    model = golden_model(shift=3.0)
    expected = theirs(pipeline(model, "dpmpp_sde", "t2v", 3.0), 3, num_frames=9, num_inference_steps=steps)
    latents, _ = ours(model, GenerateOptions(steps=steps, sampler="dpmpp_sde"), 3)
    torch.testing.assert_close(latents, expected, **CLOSE)


def test_pixels_equal_the_public_pipeline():
    model = golden_model()
    pipe = pipeline(model, "ddim", "t2v")
    text = golden_text()
    expected = pipe(
        prompt_embeds=text["prompt_embedding"],
        negative_prompt_embeds=text["negative_embedding"],
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=6.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        return_dict=False,
    )[0][0]
    _, video = ours(model, GenerateOptions(steps=2), 3)
    assert np.abs(video.frames / 255 - expected).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("patch_size_t", [None, 2], ids=["1.0", "1.5"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_sde"])
def test_image_to_video_equals_the_public_pipeline(sampler, patch_size_t, invert):
    settings = {"ofs_embed_dim": 16} if patch_size_t else {}
    model = golden_model("i2v", patch_size_t, invert_scale_latents=invert, **settings)
    picture = golden_frames(1)[0]
    expected = theirs(
        pipeline(model, sampler, "i2v"),
        5,
        image=Image.fromarray(picture),
        num_frames=model.spec.frames,
        num_inference_steps=3,
    )
    options = GenerateOptions(steps=3, sampler=sampler, height=32, width=48)
    latents, _ = ours(model, options, 5, image=picture)
    torch.testing.assert_close(latents, expected[:, :, expected.shape[2] - latents.shape[2] :], **CLOSE)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_sde"])
def test_video_to_video_equals_the_public_pipeline(sampler):
    model, frames = golden_model(), golden_frames(9)
    expected = theirs(
        pipeline(model, sampler, "v2v"),
        5,
        video=[Image.fromarray(frame) for frame in frames],
        num_inference_steps=5,
        strength=0.8,
    )
    latents, _ = ours(
        model, GenerateOptions(steps=5, sampler=sampler, strength=0.8), 5, video=Video(frames, 8)
    )
    torch.testing.assert_close(latents, expected, **CLOSE)


# golden numbers: mean, mean of |x|, flat elements 0, 1, n//3, n//2, 2n//3, n-1 (diffusers 0.42.1)


@pytest.fixture(scope="module")
def golden_vae():
    return fill_model(
        VAE(VAEConfig(block_out_channels=(32, 64, 64, 128), latent_channels=4, scaling_factor=0.7))
    )


def variant_model(name: str, vae: VAE) -> CogVideoX:
    is_15, is_i2v = name.startswith("1.5"), name.endswith("i2v")
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=64,
        num_layers=2,
        in_channels=8 if is_i2v else 4,
        out_channels=4,
        time_embed_dim=32,
        text_embed_dim=24,
        max_text_seq_length=5,
        sample_height=8,
        sample_width=12,
        sample_frames=9,
        patch_size_t=2 if is_15 else None,
        ofs_embed_dim=32 if is_15 and is_i2v else None,
        use_rotary_positional_embeddings=name != "2b",
        use_learned_positional_embeddings=name == "5b-i2v",
    )
    schedule = Schedule(ScheduleConfig(snr_shift_scale=3.0 if name == "2b" else 1.0))
    kind = "i2v" if is_i2v else "t2v"
    return CogVideoX.assemble(fill_model(Transformer(config)), vae, None, schedule, name=name, kind=kind)


def golden_run(
    model: CogVideoX,
    condition: Conditioning | None = None,
    generator: torch.Generator | None = None,
    initial: torch.Tensor | None = None,
    **settings,
) -> torch.Tensor:
    """Latents in the layout of the table: [b, t, c, h, w]."""
    t = 4 if model.spec.frame_patch == 2 else 3
    shape = (1, 4, t, 8, 12)
    if initial is None:
        initial = fill("input.init", (1, t, 4, 8, 12)).transpose(1, 2)
    options = GenerateOptions(**({"steps": 4} | settings))
    noises = Noises(0, torch.float32, "cpu", generator or torch.Generator())
    text = fill("input.text", (1, 5, 24)), fill("input.neg", (1, 5, 24))
    with torch.no_grad():
        return sample_latents(model, *text, initial, options, condition, noises.steps(shape)).transpose(1, 2)


def check(values: torch.Tensor, *expected: float) -> None:
    assert summary(values) == pytest.approx(list(expected), abs=2e-4)


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        (
            "2b",
            "constant",
            (0.335659, 0.995363, -0.532176, -1.021938, -0.201180, 0.215625, 0.942692, 1.493912),
        ),
        ("2b", "wave", (0.413936, 0.994830, -0.396844, -1.105715, 0.188463, 0.610729, 0.982850, 1.711305)),
        (
            "5b",
            "constant",
            (0.125610, 0.987529, -0.496543, -0.415938, -0.838454, -0.168196, 1.485691, 0.767483),
        ),
        ("5b", "wave", (0.186088, 0.990407, -0.478417, -0.368477, -0.414144, -0.046308, 1.460014, 1.231294)),
        (
            "1.5",
            "constant",
            (-0.000949, 1.028389, 0.504432, 0.622108, -1.022705, -0.024436, -1.271794, 1.663079),
        ),
        ("1.5", "wave", (0.055394, 1.035591, 0.600009, 0.596598, -0.893786, 0.180089, -1.168473, 1.662271)),
    ],
)
def test_golden_ddim(golden_vae, name, schedule, expected):
    check(golden_run(variant_model(name, golden_vae), guidance_schedule=schedule), *expected)


def test_golden_dpm(golden_vae):
    latents = golden_run(
        variant_model("5b", golden_vae),
        generator=torch.Generator().manual_seed(42),
        sampler="dpmpp_sde",
        guidance_schedule="wave",
    )
    check(latents, 0.179399, 1.040843, -0.177852, 0.125125, 0.664850, 0.655447, -1.469439, -1.371620)


def test_golden_pixels(golden_vae):
    model = variant_model("5b", golden_vae)
    pixels = model.decode_latents(golden_run(model).transpose(1, 2))
    pixels = (pixels / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    check(pixels, 0.298373, 0.298373, 0.536683, 0.427517, 0.280215, 0.0, 0.319038, 0.845070)


@pytest.mark.parametrize(
    ("name", "scale", "first_latent", "expected"),
    [
        (
            "5b-i2v",
            "multiply",
            0.635078,
            (0.099353, 0.917516, -1.296988, 1.026065, 0.303137, 0.208230, -0.003779, -0.163917),
        ),
        (
            "1.5-i2v",
            "divide",
            1.296078,
            (0.177413, 1.031579, 0.036778, 0.775525, -2.034819, -1.970194, 1.048284, 1.880480),
        ),
        (
            "1.5-i2v",
            "multiply",
            0.635078,
            (0.178280, 1.025099, -0.913543, 0.316945, -1.644899, -1.965231, 1.149656, 2.047518),
        ),
    ],
)
def test_golden_image_to_video(golden_vae, name, scale, first_latent, expected):
    model = variant_model(name, golden_vae)
    coder = Coder(model, torch.float32, torch.Generator().manual_seed(7), image_scale=scale)
    image = fill("input.image", (1, 3, 1, 64, 96))
    condition = from_pictures(coder, {0: image}, 4 if model.spec.frame_patch == 2 else 3)
    assert condition.channels[:, :, 0].abs().mean().item() == pytest.approx(first_latent, abs=2e-4)
    assert not condition.channels[:, :, 1:].any()
    check(golden_run(model, condition), *expected)


def test_golden_video_to_video(golden_vae):
    model = variant_model("5b", golden_vae)
    generator = torch.Generator().manual_seed(7)
    coder = Coder(model, torch.float32, generator)
    condition = from_video(coder, fill("input.vid", (1, 9, 3, 64, 96)).transpose(1, 2), 0, 0.8)
    initial = Noises(0, torch.float32, "cpu", generator).initial((1, 4, 3, 8, 12))
    latents = golden_run(model, condition, generator, initial, steps=10)
    check(latents, 0.105851, 1.194196, 1.878310, 2.061677, 0.970256, -1.994792, 0.636508, -1.438689)
