"""Models that read conditions, against diffusers' networks with conditions that are laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideox.checkpoints import load_model
from cogvideox.data.clips import ClipSize
from cogvideox.generation import GenerateOptions, generate
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.transformer import TokenGrid
from cogvideox.transformer.position import Sinusoidal, coordinates
from cogvideox.vae import VAE
from cogvideox.video import Video
from parity.test_generate import CLOSE, pipeline
from support.clip_folders import write_layout
from support.golden import fill
from support.models import TEXT_WIDTH, TOKENS, golden_frames, golden_model, golden_text, write_model_folder

diffusers = pytest.importorskip("diffusers")
STEPS = 4


def latents_of(model, **given) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    options = GenerateOptions(prompt="x", steps=STEPS, guidance=6.0)
    start = fill("start", given.pop("shape"))
    generate(
        model,
        options,
        lambda step: seen.append(step.estimate) if step.estimate is not None else None,
        initial_latents=start,
        **(golden_text() | given),
    )
    return seen[-1]


def by_hand(model, channels: torch.Tensor, after_block=None, before_step=None) -> torch.Tensor:
    """Four steps of the stock DDIM scheduler, which knows no SNR shift, with diffusers' transformer.

    ``after_block`` makes the forward hook of each block by its number; ``before_step`` is called with the number of
    each step and what the transformer is asked.
    """
    pipe = pipeline(model, "ddim", "t2v")
    for number, block in enumerate(pipe.transformer.transformer_blocks):
        if after_block is not None:
            block.register_forward_hook(after_block(number))
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    x = fill("start", (1, 4, *channels.shape[2:]))
    text = golden_text()
    both = torch.cat([text["negative_embedding"], text["prompt_embedding"]])
    grid = TokenGrid(x.shape[2], x.shape[3] // 2, x.shape[4] // 2)
    rotary = model.transformer.rotary
    from cogvideox.transformer.layout import Layout

    turns = None
    if rotary is not None:
        table = rotary.table(Layout.plain(0, grid), torch.device("cpu"))[:, 0]
        turns = tuple(part.repeat_interleave(2, dim=1) for part in (table.real, table.imag))
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            inputs = torch.cat([x, channels], dim=1).repeat(2, 1, 1, 1, 1).transpose(1, 2)
            if before_step is not None:
                before_step(step, inputs, both, t.expand(2), turns)
            out = pipe.transformer(inputs, both, t.expand(2), image_rotary_emb=turns)[0]
            negative, prompt = out.transpose(1, 2).chunk(2)
            x = scheduler.step(negative + 6 * (prompt - negative), t, x).prev_sample
    return x


def test_control_equals_the_public_pipeline():
    model = golden_model("control")
    video = Video(golden_frames(9), 8.0)
    pipe = pipeline(model, "ddim", "t2v")
    control = diffusers.CogVideoXFunControlPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=pipe.vae,
        transformer=pipe.transformer,
        scheduler=pipe.scheduler,
    )
    expected = theirs_controlled(control, video, **golden_text())
    found = latents_of(model, control=video, shape=(1, 4, 3, 4, 6), **golden_text())
    torch.testing.assert_close(found, expected, **CLOSE)


def theirs_controlled(pipe, video: Video, prompt_embedding, negative_embedding) -> torch.Tensor:
    """Latents of diffusers' control pipeline after the steps."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt_embeds=prompt_embedding, negative_prompt_embeds=negative_embedding,
        control_video=[frame for frame in video.frames.astype(np.float32) / 255], height=32, width=48,
        num_inference_steps=STEPS, guidance_scale=6.0, latents=fill("start", (1, 4, 3, 4, 6)).transpose(1, 2),
        output_type="latent", return_dict=False,
    )[0].transpose(1, 2)  # fmt: skip


def test_a_control_model_that_was_trained_here_loads_in_the_public_pipeline(tmp_path):
    toy = str(write_model_folder(tmp_path / "toy"))
    write_layout(tmp_path / "clips", "stems", count=4, size=32)
    data = FolderData(folder=str(tmp_path / "clips"), size=ClipSize(frames=9, height=32, width=48), budget=80)
    task = DiffusionTraining(
        start=toy, cache=str(tmp_path / "cache"), data=data, model_kind="control", control="canny"
    )
    optim = OptimConfig(lr=0.05, warmup=0)
    result = train(TrainConfig(name="control", task=task, out=str(tmp_path / "out"), steps=3, optim=optim))
    model, video = load_model(result), Video(golden_frames(9), 8.0)
    assert model.spec.kind == "control"
    text = {name: fill(name, (1, TOKENS, TEXT_WIDTH)) for name in golden_text()}
    pipe = diffusers.CogVideoXFunControlPipeline.from_pretrained(result, tokenizer=None, text_encoder=None)
    expected = theirs_controlled(pipe, video, **text)
    found = latents_of(model, control=video, shape=(1, 4, 3, 4, 6), **text)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_inpainting_equals_a_run_by_hand():
    model, video = golden_model("inpaint", position_mode="fun"), Video(golden_frames(9), 8.0)
    hole = np.zeros((32, 48), np.uint8)
    hole[:, 24:] = 255
    pixels = video.to_tensor()
    pixels[..., 24:] = -1
    known = torch.zeros(1, 1, 3, 4, 6)
    known[..., :3] = 0.7
    vae = pipeline(model, "ddim", "t2v").vae
    with torch.no_grad():
        masked = vae.encode(pixels).latent_dist.mode() * 0.7
    expected = by_hand(model, torch.cat([known, masked], dim=1))
    found = latents_of(model, video=video, mask=hole, shape=(1, 4, 3, 4, 6))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_removal_equals_a_run_by_hand():
    model, video = golden_model("removal", position_mode="fun"), Video(golden_frames(9), 8.0)
    gone = np.zeros((32, 48), np.uint8)
    gone[8:16] = 255
    grey = torch.ones(1, 3, 9, 32, 48)
    grey[..., 8:16, :] = 0
    vae = pipeline(model, "ddim", "t2v").vae
    with torch.no_grad():
        parts = [vae.encode(each).latent_dist.mode() * 0.7 for each in (grey, video.to_tensor())]
    expected = by_hand(model, torch.cat(parts, dim=1))
    found = latents_of(model, video=video, remove=gone, shape=(1, 4, 3, 4, 6))
    torch.testing.assert_close(found, expected, **CLOSE)


# what VideoX-Fun computes another way than diffusers


def test_positions_at_other_sizes_are_those_of_videox_fun():
    _, rows, columns = coordinates(TokenGrid(1, 24, 42), "fun", (30, 45))
    assert (rows[0], columns[0]) == (2, 0)
    assert rows[-1] == pytest.approx(26.917, abs=1e-3) and columns[-1] == pytest.approx(45 * 41 / 42)
    table = Sinusoidal(64, 1.875, 1.0, resized_from=(8, 12))
    own = Sinusoidal(64, 1.875, 1.0).table(TokenGrid(3, 8, 12))
    assert torch.equal(table.table(TokenGrid(3, 8, 12)), own)
    native = own.reshape(1, 3, 8, 12, 64).movedim(-1, 1)
    resized = torch.nn.functional.interpolate(native, (3, 6, 6), mode="trilinear", align_corners=False)
    found = table.table(TokenGrid(3, 6, 6)).reshape(1, 3, 6, 6, 64).movedim(-1, 1)
    torch.testing.assert_close(found, resized)


def test_the_first_latent_is_decoded_by_itself():
    model = golden_model("inpaint", first_latent_alone=True)
    theirs = pipeline(model, "ddim", "t2v").vae
    z = fill("z", (1, 4, 5, 4, 6))
    cache, parts = None, []
    with torch.no_grad():
        for start, stop in ((0, 1), (1, 3), (3, 5)):
            part, cache = theirs.decoder(z[:, :, start:stop], conv_cache=cache)
            parts.append(part)
        found = model.vae.decode(z)
    torch.testing.assert_close(found, torch.cat(parts, dim=2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 5), (13, 49), (22, 85)])
def test_every_number_of_latents_gives_four_frames_each_and_one(latents, frames):
    model = golden_model("inpaint", first_latent_alone=True)
    vae: VAE = model.vae
    z = fill("z", (1, 4, latents, 4, 6))
    with torch.no_grad():
        chunked, whole = vae.decode(z), vae.decode(z, "whole")
        streamed = torch.cat(list(vae.stream_decode(z.split(3, dim=2))), dim=2)
    assert chunked.shape[2] == whole.shape[2] == vae.config.pixel_frames(latents) == frames
    assert torch.equal(chunked, streamed)
