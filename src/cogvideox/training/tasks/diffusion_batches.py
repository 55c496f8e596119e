"""What the transformer is given for a clip (clean latents, noise, text, condition), and its error, trained or held out.

Clips are collated by ``velocity_errors``: stacked, or packed into one sequence. Every draw is a function of (seed,
number of the sample in the run), so a sample does not depend on the micro-step or the rank that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.data.latents import EncodedClips
from cogvideox.diffusion import Schedule
from cogvideox.noise import generator, normal
from cogvideox.training.tasks.diffusion_conditions import ClipConditions
from cogvideox.transformer import Layout, Transformer
from cogvideox.transformer.kernels import Fastest, random_heads
from cogvideox.vae import VAE

Texts = Callable[[Sequence[str]], Sequence[Float[Tensor, "l e"]] | Float[Tensor, "b l e"]]
"""Prompts -> their embeddings."""

BANDS = (100, 300, 500, 700, 900)
"""Timesteps that held-out clips are measured at: those of Table 9, of 1000."""

MEASURED_AT_ONCE = 16
"""Held-out clips of one shape that are measured in one forward pass."""


@dataclass(frozen=True)
class DiffusionSample:
    """One clip as scaled latents, padded to whole patches in time; ``condition`` fills the input's later channels."""

    clean: Float[Tensor, "c t h w"]
    noise: Float[Tensor, "c t h w"]
    text: Float[Tensor, "l e"]
    condition: Float[Tensor, "k t h w"] | None = None

    def to(self, device: torch.device) -> DiffusionSample:
        """The same on a device, text in float32."""
        condition = self.condition.to(device) if self.condition is not None else None
        clean, noise = self.clean.to(device), self.noise.to(device)
        return DiffusionSample(clean, noise, self.text.to(device, torch.float32), condition)

    def read(self, noisy: Float[Tensor, "c t h w"]) -> Float[Tensor, "k t h w"]:
        """What the network reads for it: noisy latents, and the condition in the later channels."""
        return noisy if self.condition is None else torch.cat([noisy, self.condition])


@dataclass
class DiffusionBatcher:
    """Makes samples of the clips of a data set: latents drawn, noised, captioned, sometimes without text or condition.

    ``conditions``: what the network reads beside the noisy latents; None: nothing.
    """

    clips: EncodedClips
    texts: Texts
    vae: VAE
    seed: int
    patch_t: int = 1
    conditions: ClipConditions | None = None
    text_dropout: float = 0.1
    condition_dropout: float = 0.05

    def training(self, clips: Sequence[int], samples: range) -> list[DiffusionSample]:
        """The clips with these indices as the samples with these numbers in the run."""
        coins = [torch.rand(2, generator=generator(self.seed, "dropout", number)) for number in samples]
        prompts = [
            "" if coin[0] < self.text_dropout else self.clips.caption(clip, number)
            for clip, number, coin in zip(clips, samples, coins, strict=True)
        ]
        clean = []
        for clip, number in zip(clips, samples, strict=True):
            mean, deviation = self.clips.latents(clip)
            clean.append(mean + deviation * normal(mean.shape, self.seed, "latent noise", number))
        seeds = [(self.seed, "noise", number) for number in samples]
        kept = [float(coin[1] >= self.condition_dropout) for coin in coins]
        return self._samples(clean, seeds, prompts, list(zip(clips, samples, kept, strict=True)))

    def fixed(self, clips: Sequence[int]) -> list[DiffusionSample]:
        """These clips without chance: the latents' means, noise of the clip's index, caption and image as they are."""
        clean = [self.clips.latents(clip)[0] for clip in clips]
        seeds = [(0, "held-out noise", clip) for clip in clips]
        prompts = [self.clips.caption(clip, 0) for clip in clips]
        return self._samples(clean, seeds, prompts, [(clip, None, 1.0) for clip in clips])

    def _samples(
        self,
        clean: list[Tensor],
        seeds: list[tuple[int, str, int]],
        prompts: list[str],
        picks: Sequence[tuple[int, int | None, float]],
    ) -> list[DiffusionSample]:
        """``picks``: (clip, number of the sample, factor of its condition) of each sample."""
        texts = self.texts(prompts)
        samples = []
        for index, latents in enumerate(clean):
            scaled = self._padded(latents * self.vae.config.scaling_factor)
            condition = None
            if self.conditions is not None:
                clip, number, factor = picks[index]
                condition = self.conditions.channels(clip, number, scaled.shape[1]) * factor
            noise = normal(scaled.shape, *seeds[index])
            samples.append(DiffusionSample(scaled, noise, texts[index], condition))
        return samples

    def _padded(self, latents: Float[Tensor, "c t h w"]) -> Float[Tensor, "c t h w"]:
        """Copies of the first latent in front, until patches in time fit: the rule of 1.5, for images too."""
        missing = -latents.shape[1] % self.patch_t
        return torch.cat([latents[:, :1]] * missing + [latents], dim=1)


def velocity_errors(
    network: nn.Module,
    schedule: Schedule,
    samples: Sequence[DiffusionSample],
    times: Int[Tensor, " n"],
    weights: Sequence[Float[Tensor, "t h w"]] | None = None,
) -> Float[Tensor, " n"]:
    """Mean squared error of the velocity, clip by clip (section 2.2; the same as the released weighting of clean ones).

    Clips of one shape take the dense path, others are packed into one sequence; each gives the number it gives alone.
    ``weights``: what each latent of a clip counts, of mean 1; None: all the same.
    """
    device = next(network.parameters()).device
    times = times.to(device)
    samples = [sample.to(device) for sample in samples]
    batched = [[one[None] for one in (s.clean, s.noise, t)] for s, t in zip(samples, times, strict=True)]
    target = [schedule.velocity(*each)[0] for each in batched]
    noisy = [schedule.add_noise(*each)[0] for each in batched]
    velocity = predict(network, samples, noisy, times)
    errors = [(v.float() - aim).square() for v, aim in zip(velocity, target, strict=True)]
    if weights is not None:
        errors = [error * weight.to(device) for error, weight in zip(errors, weights, strict=True)]
    return torch.stack([error.mean() for error in errors])


def predict(
    network: nn.Module,
    samples: Sequence[DiffusionSample],
    noisy: Sequence[Float[Tensor, "c t h w"]],
    times: Int[Tensor, " n"],
) -> list[Float[Tensor, "c t h w"]]:
    """The velocities that a network says for samples which are this noisy, all on its device.

    Samples of one shape take the dense path, others are packed into one sequence.
    """
    inputs = [sample.read(x) for sample, x in zip(samples, noisy, strict=True)]
    text = [sample.text for sample in samples]
    if _of_one_shape(samples):
        return list(network(torch.stack(inputs), torch.stack(text), times))
    return cast(Transformer, network).forward_packed(inputs, text, times)


def _of_one_shape(samples: Sequence[DiffusionSample]) -> bool:
    return len({(sample.noise.shape, len(sample.text)) for sample in samples}) == 1


def fix_kernel(attn_fn: Fastest, network: Transformer, samples: Sequence[DiffusionSample]) -> None:
    """Choose the attention kernel by time on sequences like that of these samples, in this moment's autocast.

    To be called outside of the forward pass, before anything is compiled.
    """
    weight = network.proj_out.weight
    device = weight.device.type
    half = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if half else weight.dtype
    lengths = [len(sample.text) for sample in samples]
    grids = [network.grid(sample.clean[None]) for sample in samples]
    batch = len(samples) if _of_one_shape(samples) else 1
    layout = Layout.packed(lengths, grids) if batch == 1 else Layout.plain(lengths[0], grids[0])
    attn_fn.fix(*random_heads(network, batch, layout.tokens, dtype, requires_grad=True), layout)


class Measurement(Protocol):
    """Some held-out figures of a task, measured in batches that several processes can share."""

    width: int
    """Values that one batch gives."""

    @property
    def batches(self) -> Sequence[Any]:
        """What is measured at once, in order."""

    def measure(self, module: nn.Module, index: int) -> Sequence[float]:
        """``width`` values of one batch."""

    def figures(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """Figures by name, from what ``measure`` gave for all batches in order."""


class HeldOut:
    """Velocity error of held-out clips in five bands of noise, on fixed (clip, timestep, noise) triples. Measured in
    batches (some clips of one shape at one timestep) that several processes can share."""

    width = 2

    def __init__(self, batcher: DiffusionBatcher, schedule: Schedule) -> None:
        self.batcher, self.schedule = batcher, schedule
        total = schedule.config.num_train_timesteps
        self.bands = [band * total // 1000 for band in BANDS]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for clip in range(len(batcher.clips)):
            by_shape.setdefault(batcher.clips.shape(clip), []).append(clip)
        batches: list[list[int]] = []
        for clips in by_shape.values():
            batches += (clips[at : at + MEASURED_AT_ONCE] for at in range(0, len(clips), MEASURED_AT_ONCE))
        self.batches = [(band, clips) for band in self.bands for clips in batches]

    @torch.no_grad()
    def measure(self, module: nn.Module, index: int) -> tuple[float, float]:
        """(sum of the errors of one batch, clips in it)."""
        band, clips = self.batches[index]
        errors = self.errors(module, self.batcher.fixed(clips), torch.full((len(clips),), band))
        return float(errors.double().sum()), float(len(clips))

    def errors(
        self, module: nn.Module, samples: Sequence[DiffusionSample], times: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """What is measured of each sample."""
        return velocity_errors(module, self.schedule, samples, times)

    def figures(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """The mean error of each band and the mean of the bands, from what ``measure`` gave for all batches."""
        means = {}
        for band in self.bands:
            own = [values for (other, _), values in zip(self.batches, measured, strict=True) if other == band]
            means[f"held_out_{band}"] = sum(error for error, _ in own) / sum(clips for _, clips in own)
        return means | {"held_out": sum(means.values()) / len(means)}
