"""What is measured: the same work done by ours and by diffusers, on the same weights and inputs.

A case builds a function for either side. It takes no arguments and returns the result, so that a run can
check that both agree before it compares how long they took.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor

Side = Literal["ours", "diffusers"]
Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """How large the work is: pixels for the VAE, latents for the transformer, both for a generation."""

    channels: tuple[int, ...]  # widths of the VAE's stages
    layers_per_block: int
    frames: int
    height: int
    width: int
    heads: int
    depth: int
    latents: tuple[int, int, int]  # t, h, w of the transformer case
    text_tokens: int
    steps: int = 10
    step: tuple[int, int, int] = (13, 60, 90)  # latents of a sampler step alone
    groups: int = 16
    train: tuple[int, int] | None = None  # heads and layers of the training step; default: half of both


SIZES = {
    "mid": Size((32, 64, 128, 128), 2, 17, 96, 128, 8, 6, (5, 24, 32), 226),
    "step": Size((32, 64, 128, 128), 1, 9, 64, 64, 8, 4, (5, 16, 16), 64),
    "real": Size(
        (128, 256, 256, 512), 3, 9, 128, 176, 30, 1, (3, 30, 44), 226, groups=32, train=(30, 1)
    ),  # the public widths; 226 + 990 tokens
    "smoke": Size((16, 16, 32, 32), 1, 9, 32, 32, 2, 1, (3, 4, 4), 8, steps=2, step=(3, 4, 4)),
}
TEXT_WIDTH = 256


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _vae(size: Size, side: Side) -> torch.nn.Module:
    torch.manual_seed(0)
    names = {
        "block_out_channels": size.channels,
        "layers_per_block": size.layers_per_block,
        "norm_num_groups": size.groups,
        "sample_height": size.height,
        "sample_width": size.width,
        "scaling_factor": 0.7,
    }
    if side == "ours":
        from cogvideox.vae import VAE, VAEConfig

        return VAE(VAEConfig(**names)).eval()
    from diffusers import AutoencoderKLCogVideoX

    stages = len(size.channels)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * stages,
        up_block_types=("CogVideoXUpBlock3D",) * stages,
        **names,
    ).eval()


def _transformer(
    size: Size, side: Side, latents: tuple[int, int, int], heads: int, depth: int
) -> torch.nn.Module:
    torch.manual_seed(0)
    frames, height, width = latents
    names = {
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "num_layers": depth,
        "time_embed_dim": 256,
        "text_embed_dim": TEXT_WIDTH,
        "max_text_seq_length": size.text_tokens,
        "sample_height": height,
        "sample_width": width,
        "sample_frames": 4 * (frames - 1) + 1,
        "use_rotary_positional_embeddings": True,
    }
    if side == "ours":
        from cogvideox.transformer import Transformer, TransformerConfig

        return Transformer(TransformerConfig(**names)).eval()
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(**names).eval()


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """The same weights on both sides: drawn by name, in whatever order a library makes its layers."""
    for name, weight in sorted(network.state_dict().items()):
        seed = sum(index * ord(letter) for index, letter in enumerate(name, 1))
        drawn = _noise(*weight.shape, seed=seed) * 0.05
        is_scale = weight.ndim == 1 and name.endswith("weight")
        weight.copy_(1 + drawn if is_scale else drawn)
    return network


def _rotary(latents: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    frames, height, width = latents
    grid = (height // 2, width // 2)
    return get_3d_rotary_pos_embed(64, ((0, 0), grid), grid, frames)


def encode(size: Size, side: Side) -> Work:
    """Pixels to the mean of their latents."""
    vae, pixels = fill(_vae(size, side)), _noise(1, 3, size.frames, size.height, size.width).clamp(-1, 1)
    if side == "ours":
        return lambda: vae.encode(pixels).mode()
    return lambda: vae.encode(pixels).latent_dist.mode()


def decode(size: Size, side: Side) -> Work:
    """Latents to pixels."""
    vae = fill(_vae(size, side))
    latents = _noise(1, 16, (size.frames - 1) // 4 + 1, size.height // 8, size.width // 8)
    if side == "ours":
        return lambda: vae.decode(latents)
    return lambda: vae.decode(latents).sample


def forward(size: Size, side: Side) -> Work:
    """One call of the transformer."""
    network = fill(_transformer(size, side, size.latents, size.heads, size.depth))
    latents, text = _noise(1, 16, *size.latents), _noise(1, size.text_tokens, TEXT_WIDTH, seed=1)
    time = torch.tensor([500])
    if side == "ours":
        return lambda: network(latents, text, time)
    frames_first, rotary = latents.transpose(1, 2), _rotary(size.latents)
    return lambda: network(frames_first, text, time, image_rotary_emb=rotary, return_dict=False)[0].transpose(
        1, 2
    )


def layer(size: Size, side: Side, heads: int, rotary: bool) -> Work:
    """One layer of the transformer for both halves of guidance: text and video, joined."""
    heads = heads if size.channels == SIZES["real"].channels else size.heads  # less at small sizes
    network = fill(_transformer(size, side, size.latents, heads, 1))
    block, tokens = network.transformer_blocks[0], size.text_tokens + prod(size.latents) // 4
    x, temb = _noise(2, tokens, 64 * heads), _noise(2, 256, seed=1)
    if side == "ours":
        from cogvideox.transformer.layout import Layout, TokenGrid

        t, h, w = size.latents
        layout = Layout.plain(size.text_tokens, TokenGrid(t, h // 2, w // 2))
        factors = network.rotary.table(layout, x.device) if rotary else None
        after = torch.nn.functional.silu(temb)[:, None]  # once for all layers; diffusers does it in each
        return lambda: block(x.clone(), after, factors, layout)  # it writes over its input
    text, video = x[:, : size.text_tokens], x[:, size.text_tokens :]
    turned = _rotary(size.latents) if rotary else None

    def theirs() -> Tensor:
        video_after, text_after = block(video, text, temb, image_rotary_emb=turned)
        return torch.cat([text_after, video_after], dim=1)

    return theirs


def generation(size: Size, side: Side) -> Work:
    """Ten guided DDIM steps from given noise and text embeddings, and the decoding, to frames in [0, 1]."""
    shape = ((size.frames - 1) // 4 + 1, size.height // 8, size.width // 8)
    network = fill(_transformer(size, side, shape, max(size.heads // 2, 1), max(size.depth // 2, 1)))
    vae = fill(_vae(size, side))
    noise = _noise(1, 16, *shape, seed=2)
    prompt, negative = (_noise(1, size.text_tokens, TEXT_WIDTH, seed=seed) for seed in (3, 4))
    if side == "ours":
        return _ours_generation(network, vae, noise, torch.cat([negative, prompt]), size.steps)
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=1.0,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    pipeline = CogVideoXPipeline(None, None, vae, network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        latents=noise.transpose(1, 2),
        height=size.height,
        width=size.width,
        num_frames=size.frames,
        num_inference_steps=size.steps,
        guidance_scale=6.0,
        max_sequence_length=size.text_tokens,
        output_type="pt",
    ).frames.transpose(1, 2)


def _ours_generation(
    network: torch.nn.Module, vae: torch.nn.Module, noise: Tensor, text: Tensor, steps: int
) -> Work:
    from cogvideox.diffusion import Constant, Schedule, ddim, guided

    def work() -> Tensor:
        denoise = guided(lambda x, t: network(x, text, t), Constant(scale=6.0).build())
        latents = ddim(denoise, noise, Schedule().path(steps))
        return (vae.decode(latents / vae.config.scaling_factor) / 2 + 0.5).clamp(0, 1)

    return work


def dpm_steps(size: Size, side: Side, drawn: bool = True) -> Work:
    """A first- and a second-order step of the stochastic sampler.

    The noise is the released stream, of which the second step drops a draw; or it is given, and costs nothing.
    """
    shape = (1, *size.step, 16)  # b t h w c, and no layout is favoured
    frames, height, width = size.step
    x, v = (_noise(*shape, seed=seed).permute(0, 4, 1, 2, 3).contiguous() for seed in (5, 6))
    source = torch.Generator()
    given = _noise(1, frames, 16, height, width, seed=7)
    if side == "ours":
        from cogvideox.diffusion import Schedule, denoiser, dpmpp_sde
        from cogvideox.noise import skip_normal

        path = Schedule().path(50)[20:22]

        def draw(draws: int) -> Tensor:
            if not drawn:
                return given.transpose(1, 2)
            for _ in range(draws - 1):
                skip_normal(given.shape, source)
            return torch.randn(given.shape, generator=source).transpose(1, 2)

        def work() -> Tensor:
            source.manual_seed(0)
            return dpmpp_sde(denoiser(lambda y, t: v), x, path, noise=draw)

        return work
    from diffusers import CogVideoXDPMScheduler
    from diffusers.schedulers import scheduling_dpm_cogvideox as released

    scheduler = CogVideoXDPMScheduler(
        snr_shift_scale=1.0,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(50)
    times = scheduler.timesteps[20:22]
    start, predicted = x.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()

    def theirs() -> Tensor:
        source.manual_seed(0)
        y, before = start, None
        with nullcontext() if drawn else patch.object(released, "randn_tensor", lambda *_, **__: given):
            for i, t in enumerate(times):
                back = times[i - 1] if i else None
                y, before = scheduler.step(predicted, before, t, back, y, generator=source, return_dict=False)
        return y.transpose(1, 2)

    return theirs


def training_step(size: Size, side: Side) -> Work:
    """Forward, backward and AdamW on one clip; returns the loss."""
    heads, depth = size.train or (max(size.heads // 2, 1), max(size.depth // 2, 1))
    latents, text = _noise(1, 16, *size.latents), _noise(1, size.text_tokens, TEXT_WIDTH, seed=1)
    target, time = _noise(1, 16, *size.latents, seed=2), torch.tensor([500])
    with torch.inference_mode(False):
        network = _transformer(size, side, size.latents, heads, depth).train()
        with torch.no_grad():
            fill(network)
        if side == "ours":
            from cogvideox.training.optim import OptimConfig, build_optimizers

            (optimizer,) = build_optimizers(network, OptimConfig(name="adamw", lr=1e-5))
        else:
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=1e-4)
    rotary = _rotary(size.latents)

    def work() -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x, words, wanted = latents.clone(), text.clone(), target.clone()
            if side == "ours":
                v = network(x, words, time.clone())
            else:
                turned = tuple(part.clone() for part in rotary)
                v = network(
                    x.transpose(1, 2), words, time.clone(), image_rotary_emb=turned, return_dict=False
                )[0]
                v = v.transpose(1, 2)
            loss = (v - wanted).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return work


def vae_training_step(size: Size, side: Side) -> Work:
    """Encode, draw, decode, L1 + KL, backward and AdamW on one clip, in the released chunks; returns the loss."""
    pixels = _noise(1, 3, size.frames, size.height, size.width).clamp(-1, 1)
    noise = _noise(1, 16, (size.frames - 1) // 4 + 1, size.height // 8, size.width // 8, seed=1)
    with torch.inference_mode(False):
        vae = _vae(size, side).train()
        with torch.no_grad():
            fill(vae)
        optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-5, fused=side == "ours")

    def work() -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = pixels.clone()
            found = vae.encode(x) if side == "ours" else vae.encode(x).latent_dist
            drawn = found.mean + torch.exp(0.5 * found.logvar) * noise.clone()
            made = vae.decode(drawn) if side == "ours" else vae.decode(drawn).sample
            kl = 0.5 * (found.mean.square() + found.logvar.exp() - 1 - found.logvar).mean()
            loss = (made - x).abs().mean() + 1e-5 * kl
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return work


CASES: dict[str, Callable[[Size, Side], Work]] = {
    "VAE encode": encode,
    "VAE decode": decode,
    "transformer forward": forward,
    "generation, 10 steps": generation,
    "2 DPM steps": dpm_steps,
    "2 DPM steps, noise given": partial(dpm_steps, drawn=False),
    "training step": training_step,
    "VAE training step": vae_training_step,
}
REAL: dict[str, Callable[[Size, Side], Work]] = {
    "VAE encode": encode,
    "VAE decode": decode,
    "layer of the 2B": partial(layer, heads=30, rotary=False),
    "layer of the 5B": partial(layer, heads=48, rotary=True),
    "training step, one layer of the 2B": training_step,
}
"""At the widths of the public checkpoints: what a minute or two can show of them."""


def cases_of(size: str) -> dict[str, Callable[[Size, Side], Work]]:
    """The rows that are measured at a size."""
    return REAL if size == "real" else CASES
