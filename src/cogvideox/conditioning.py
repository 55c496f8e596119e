"""Conditions of a generation besides its prompt, as one value, filled from an image, a video or the end of a video.

    way           image                    known             start            strength
    t2v           -                        -                 -                1
    i2v           latents of the image     -                 -                1
    v2v           (i2v models: frame one)  -                 latents of it    below 1
    continuation  (i2v models: last frame) latents of its end -               1

``image`` is concatenated to the noisy latents on the channel axis at every step. ``start`` is noised to the level of
the first step that runs. ``known`` is for models that were not trained to continue: at every step the first latents are
replaced by those of the given frames with the noise of that step, and the network fills in what follows (replacement
method, Ho et al. 2022; see ``diffusion.pinned``). Full attention reads the known frames like generated ones, so motion
and content carry on.

Every latent here is [b, c, t, h, w], scaled for the transformer, with the padding of the plan (1.5: one latent in
front) already in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import FrameError, InputError
from cogvideox.model import CogVideoX, ImageScale, VaeCoding
from cogvideox.spec import ModelSpec
from cogvideox.vae import Tiles


@dataclass(frozen=True)
class Conditioning:
    """Conditions besides the prompt; with nothing set it is plain text to video.

    ``way``: "t2v", "i2v", "v2v" or "continuation". ``image``: latents beside the noisy ones at every step. ``known``:
    the first latents of the result. ``start``: latents that are noised to the level of the first step. ``strength``:
    the share of the steps that run. ``facts``: what the record of the video says about it.
    """

    way: str = "t2v"
    image: Float[Tensor, "b c t h w"] | None = None
    known: Float[Tensor, "b c k h w"] | None = None
    start: Float[Tensor, "b c t h w"] | None = None
    strength: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Coder:
    """Encodes conditions with the autoencoder of ``model`` to latents of type ``dtype``.

    ``sample``: latents are drawn from their distribution with ``generator``; else its mean is taken.
    """

    model: CogVideoX
    dtype: torch.dtype
    generator: torch.Generator | None = None
    sample: bool = True
    coding: VaeCoding = "chunked"
    tiles: Tiles | None = None
    image_scale: ImageScale = "released"

    def video(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b c t h w"]:
        """Scaled latents of a video."""
        latents = self.model.encode_video(pixels, self.generator, self.sample, self.coding, self.tiles)
        return latents.to(self.dtype)

    def picture(self, pixels: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b c 1 h w"]:
        """Latents of a picture, scaled the way an image-to-video model reads them."""
        latents = self.model.encode_image(
            pixels, self.generator, self.sample, self.coding, self.tiles, self.image_scale
        )
        return latents.to(self.dtype)


def from_text(spec: ModelSpec) -> Conditioning:
    """The prompt alone. Raises InputError for a model that needs an image."""
    if spec.kind == "i2v":
        raise InputError(
            f"image: missing, and the model {spec.name or 'given'} makes videos from an image; "
            "pass an image, or load a text-to-video model"
        )
    return Conditioning()


def from_image(
    coder: Coder, pixels: Float[Tensor, "b 3 1 h w"], latent_frames: int, padding: int = 0
) -> Conditioning:
    """An image to start from.

    Image-to-video models read it at index 0, zeros after it. In 1.5 with padding, index 0 is the latent that
    is later dropped: the released layout. A text-to-video model gets it as a known first frame instead.
    """
    if coder.model.spec.kind == "i2v":
        return Conditioning("i2v", image=_first_then_zeros(coder.picture(pixels), latent_frames))
    facts = {"method": "first latent replaced at every step: the model was not trained on images"}
    return Conditioning("i2v", known=_padded(coder.video(pixels), padding), facts=facts)


def from_video(
    coder: Coder, pixels: Float[Tensor, "b 3 f h w"], padding: int, strength: float
) -> Conditioning:
    """A video to change: its latents are noised to ``strength`` of the way and denoised again.

    The latent that 1.5 wants in front is a copy of the first one, as in its training.
    """
    latents = _padded(coder.video(pixels), padding)
    image = None
    if coder.model.spec.kind == "i2v":
        image = _first_then_zeros(coder.picture(pixels[:, :, :1]), latents.shape[2])
    return Conditioning("v2v", image=image, start=latents, strength=strength, facts={"strength": strength})


def continuation(
    coder: Coder, pixels: Float[Tensor, "b 3 f h w"], latent_frames: int, padding: int = 0
) -> Conditioning:
    """Carry on after these frames (the end of a video): f is 1 for an image-to-video model, else any 8n + 1.

    An image-to-video model starts from the last frame, which it was trained to do. Other models keep the
    latents of the given frames as the known beginning. Either way the new video begins with the given frames.
    """
    if coder.model.spec.kind == "i2v":
        first = from_image(coder, pixels[:, :, -1:], latent_frames, padding)
        return Conditioning(
            "continuation",
            image=first.image,
            facts={"method": "image-to-video from the last frame", "context_frames": 1},
        )
    known = _padded(coder.video(pixels), padding)
    if known.shape[2] >= latent_frames:
        raise FrameError(
            f"context of {pixels.shape[2]} frames: it fills {known.shape[2]} of {latent_frames} latents "
            "and leaves nothing to make; ask for more frames or give less context"
        )
    facts = {"method": "known latents replaced at every step", "context_frames": pixels.shape[2]}
    return Conditioning("continuation", known=known, facts=facts)


def _first_then_zeros(first: Tensor, latent_frames: int) -> Tensor:
    """One latent frame at index 0 of ``latent_frames``, zeros after it."""
    rest = first.new_zeros(*first.shape[:2], latent_frames - 1, *first.shape[3:])
    return torch.cat([first, rest], dim=2)


def _padded(latents: Tensor, padding: int) -> Tensor:
    """``padding`` copies of the first latent frame in front."""
    return torch.cat([latents[:, :, :1]] * padding + [latents], dim=2)
