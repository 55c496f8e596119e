"""What the network is given beside the noisy latents of a sample, for each kind of model, as inference lays it out.

| kind | channels | made from |
|---|---|---|
| i2v | latents of the first frame, noised in pixels, zeros behind it | the first frame, encoded in the step |
| i2v-every-frame | the same latents in every frame | the same |
| inpaint | a mask of what is known, latents of the clip with black in the hole | masked clips, encoded once |
| control | latents of the control video | control videos, encoded once |

Every draw is a function of (seed, number of the sample in the run).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.conditioning import resize_mask
from cogvideox.data.clips import to_model
from cogvideox.data.conditions import MaskedVideos
from cogvideox.data.latents import EncodedClips
from cogvideox.errors import ConfigError
from cogvideox.noise import generator
from cogvideox.vae import VAE, VAEConfig
from cogvideox.video import Video


class ClipConditions(Protocol):
    """Conditions of the clips of a data set."""

    def channels(self, clip: int, sample: int | None, frames: int) -> Float[Tensor, "c t h w"]:
        """What the network reads beside ``frames`` noisy latents of a clip, scaled; ``sample``: its number in the run,
        None for what has no chance in it."""

    def given(self, clip: int) -> dict[str, Any]:
        """The same condition as keywords of ``generate``, for a sample video."""


@dataclass
class FirstImages(ClipConditions):
    """The first frame of each clip; in training (a sample with a number) noised in pixels, else its latents' mean."""

    clips: EncodedClips
    vae: VAE
    seed: int
    every_frame: bool = False

    @torch.no_grad()
    def channels(self, clip: int, sample: int | None, frames: int) -> Float[Tensor, "c t h w"]:
        first = self._latent(clip, sample)
        if self.every_frame:
            return first.expand(-1, frames, -1, -1)
        return torch.cat([first, first.new_zeros(first.shape[0], frames - 1, *first.shape[2:])], dim=1)

    def given(self, clip: int) -> dict[str, Any]:
        return {"image": self.clips.first(clip).numpy()}

    def _latent(self, clip: int, sample: int | None) -> Float[Tensor, "c 1 h w"]:
        weight, scale = next(self.vae.parameters()), self.vae.config.scaling_factor
        if self.vae.config.invert_scale_latents:  # 1.5-I2V divides by it, as inference does
            scale = 1 / scale
        pixels, g = to_model(self.clips.first(clip)[None, None]), None
        if sample is not None:  # section 2.5: log-normal strength, exp(N(-3, 0.5²)) as released
            g = generator(self.seed, "image", sample)
            sigma = torch.exp(torch.randn(1, generator=g) * 0.5 - 3.0)
            pixels = pixels + sigma * torch.randn(pixels.shape, generator=g)
        posterior = self.vae.encode(pixels.to(weight.device, weight.dtype))
        latent = posterior.mode() if g is None else posterior.sample(g)
        return latent[0].float().cpu() * scale


@dataclass
class EncodedConditions(ClipConditions):
    """Condition videos that were encoded before the first step: ``variants`` of every clip of the source of ``clips``.

    ``maker``: of masked videos, whose masks are read too; None: control videos, read alone.
    """

    clips: EncodedClips
    videos: EncodedClips
    vae: VAE
    seed: int
    variants: int = 1
    maker: MaskedVideos | None = None

    def channels(self, clip: int, sample: int | None, frames: int) -> Float[Tensor, "c t h w"]:
        number = self.number(clip, sample)
        factor = self.vae.config.scaling_factor
        latents = self.videos.latents(self._index(number))[0] * factor
        if self.maker is not None:
            mask = torch.from_numpy(self._mask(clip, number % self.variants)).float()
            if bool(mask.all()):  # nothing is known: zeros, as inference gives
                return latents.new_zeros(latents.shape[0] + 1, frames, *latents.shape[2:])
            known = resize_mask(1 - mask[None, None], (latents.shape[1], *latents.shape[2:]))[0] * factor
            latents = torch.cat([known, latents])
        missing = frames - latents.shape[1]  # 1.5: copies of the first latent in front
        return torch.cat([latents[:, :1]] * missing + [latents], dim=1)

    def given(self, clip: int) -> dict[str, Any]:
        number = self.clips.indices[clip] * self.variants
        if self.maker is None:
            return {"control": Video(self.videos.source.pixels(number), 8.0)}
        mask = self._mask(clip, 0).astype(np.uint8) * 255
        return {"video": Video(self.clips.source.pixels(self.clips.indices[clip]), 8.0), "mask": mask}

    def number(self, clip: int, sample: int | None) -> int:
        """The number of the condition video that a sample of a clip reads; without chance the first of the clip."""
        variant = 0 if sample is None else variant_of(self.seed, sample, self.variants)
        return self.clips.indices[clip] * self.variants + variant

    def _mask(self, clip: int, variant: int) -> np.ndarray:
        assert self.maker is not None
        _, t, h, w = self.clips.shape(clip)
        config = self.vae.config
        ratio = config.spatial_compression_ratio
        shape = (config.pixel_frames(t), h * ratio, w * ratio)
        return self.maker.mask(self.clips.source, self.clips.indices[clip], variant, shape)

    def _index(self, number: int) -> int:
        return self._numbered[number]

    @cached_property
    def _numbered(self) -> dict[int, int]:
        """Number of a condition video -> its index among those that are encoded."""
        return {number: index for index, number in enumerate(self.videos.indices)}


def variant_of(seed: int, sample: int, variants: int) -> int:
    """Which of the masks of its clip a sample of the run gets."""
    return int(torch.randint(variants, (), generator=generator(seed, "condition", sample)))


def check_masked(frames: int, vae: VAEConfig) -> None:
    """Raise ConfigError for clips that do not come back from the autoencoder as they went in: how long one was is read
    from its latents, and its mask would be drawn for another length than its hole."""
    back = vae.pixel_frames(vae.latent_frames(frames))
    if back != frames:
        raise ConfigError(
            f"task.frames {frames}: {frames} frames come back from the VAE as {back}, so masks would not fit; use "
            "8n + 1, such as 9 or 17"
        )


def check_encoded(clips: EncodedClips, videos: EncodedClips, variants: int, numbers: Sequence[int]) -> None:
    """Raise ConfigError where a condition video of ``numbers`` could not be made, or is not as long and large as its
    clip."""
    if videos.dropped:
        name, reason = next(iter(videos.dropped.items()))
        raise ConfigError(
            f"{len(videos.dropped)} of {len(numbers)} condition videos cannot be read, such as {name}: {reason}; "
            "repair them, or take the clips out"
        )
    index_of = {number: index for index, number in enumerate(videos.indices)}
    clip_of = {number: clip for clip, number in enumerate(clips.indices)}
    for number in numbers:
        clip = clip_of[number // variants]
        own, other = clips.shape(clip), videos.shape(index_of[number])
        if own != other:
            raise ConfigError(
                f"{clips.name(clip)}: its control video has latents of {list(other[1:])}, the clip {list(own[1:])} "
                "(frames, height, width); make both as long and of one shape"
            )
