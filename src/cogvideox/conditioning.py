"""Conditions of a generation besides its prompt, as one value: what the model reads, filled from what was given.

    way           channels beside the noisy latents        known           start            strength
    t2v           - (inpaint: zeros)                       -               -                1
    i2v           latents of pictures at their places      -               -                1
    v2v           (i2v: frame one; inpaint: zeros)         -               latents of it    below 1
    continuation  (i2v: last frame)                        its end         -                1
    inpaint       mask, video with a hole                  -               -                1 (less: latents of it)
    control       latents of the control video             -               -                1
    removal       coded mask, latents of the video         -               -                1

``channels`` are concatenated to the noisy latents on the channel axis at every step, in the order of the model's
conditions. ``start`` is noised to the level of the first step that runs. ``known`` is for models that were
not trained to continue: at every step the first latents are replaced by those of the given frames with the noise of
that step, and the network fills in what follows (replacement method, Ho et al. 2022; see ``diffusion.pinned``). Full
attention reads the known frames like generated ones, so motion and content carry on.

Every latent here is [b, c, t, h, w], scaled for the transformer, with the padding of the plan (1.5: one latent in
front) already in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cogvideox.brief import Brief
from cogvideox.diffusion.windows import Window, take
from cogvideox.errors import FrameError, InputError
from cogvideox.model import CogVideoX, ImageScale, VaeCoding
from cogvideox.spec import ModelSpec
from cogvideox.vae import Tiles
from cogvideox.video.video import in_range


@dataclass(frozen=True, repr=False)
class Conditioning(Brief):
    """Conditions besides the prompt; with nothing set it is plain text to video.

    ``way``: one of the table above. ``channels``: latents beside the noisy ones at every step. ``known``: the first
    latents of the result. ``start``: latents that are noised to the level of the first step. ``strength``: the share of
    the steps that run. ``facts``: what the record of the video says about it. ``pictures``: the latent frames at which
    an image-to-video model reads a picture in ``channels``.
    """

    way: str = "t2v"
    channels: Float[Tensor, "b c t h w"] | None = None
    known: Float[Tensor, "b c k h w"] | None = None
    start: Float[Tensor, "b c t h w"] | None = None
    strength: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[int, ...] = ()

    def without_tensors(self) -> Conditioning:
        """What the record of a video needs of it: the way, the strength and the facts."""
        return replace(self, channels=None, known=None, start=None)

    def channels_of(self, window: Window) -> Float[Tensor, "b c _ h w"] | None:
        """The channels of some latent frames, as one window of a long video reads them.

        An image-to-video model was trained to begin with a picture: a window that has none there reads the first one.
        """
        if self.channels is None:
            return None
        channels = take(self.channels, window)
        if 0 in self.pictures and window[0] not in self.pictures:
            return torch.cat([self.channels[:, :, :1], channels[:, :, 1:]], dim=2)
        return channels


@dataclass(frozen=True)
class Coder:
    """Encodes conditions with the autoencoder of ``model`` to latents of type ``dtype``.

    ``sample``: latents are drawn from their distribution with ``generator``; else its mean is taken. ``noise`` draws
    the noise of conditions that are noised before they are encoded.
    """

    model: CogVideoX
    dtype: torch.dtype
    generator: torch.Generator | None = None
    sample: bool = True
    coding: VaeCoding = "chunked"
    tiles: Tiles | None = None
    image_scale: ImageScale = "released"
    noise: torch.Generator | None = None

    def video(
        self, pixels: Float[Tensor, "b 3 f h w"], sample: bool | None = None
    ) -> Float[Tensor, "b c t h w"]:
        """Scaled latents of a video; ``sample``: instead of the coder's own."""
        sample = self.sample if sample is None else sample
        latents = self.model.encode_video(pixels, self.generator, sample, self.coding, self.tiles)
        return latents.to(self.dtype)

    def picture(self, pixels: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b c 1 h w"]:
        """Latents of a picture, scaled the way an image-to-video model reads them."""
        latents = self.model.encode_image(
            pixels, self.generator, self.sample, self.coding, self.tiles, self.image_scale
        )
        return latents.to(self.dtype)

    def noised(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f h w"]:
        """Pixels with the noise that the model's video condition had in training; black ones (-1) stay as they are."""
        sigma = max((each.noise for each in self.model.spec.conditions), default=0.0)
        if not sigma:
            return pixels
        pixels = in_range(pixels)
        device = self.noise.device if self.noise is not None else "cpu"
        drawn = torch.randn(pixels.shape, generator=self.noise, device=device).to(pixels)
        return torch.where(pixels == -1, pixels, pixels + sigma * drawn)


def from_text(spec: ModelSpec) -> Conditioning:
    """The prompt alone. Raises InputError for a model that needs more; one that inpaints reads zeros."""
    name = spec.name or "given"
    otherwise = "or load a text-to-video model"
    if spec.needs_image:
        raise InputError(
            f"image: missing, and the model {name} makes videos from an image; pass an image, {otherwise}"
        )
    if spec.kind == "control":
        raise InputError(
            f"control: missing, and the model {name} follows a control video; pass one, {otherwise}"
        )
    if spec.kind == "removal":
        raise InputError(
            f"video and remove: missing, and the model {name} removes from a video what a mask shows; pass both, "
            f"{otherwise}"
        )
    return Conditioning()


def nothing_known(coder: Coder, shape: tuple[int, ...]) -> Tensor | None:
    """The channels of an inpainting model that is given nothing: zeros for latents of ``shape``; None for others."""
    spec = coder.model.spec
    if spec.kind != "inpaint":
        return None
    b, _, t, h, w = shape
    more = sum(condition.channels for condition in spec.conditions)
    return torch.zeros(b, more, t, h, w, dtype=coder.dtype, device=coder.model.device)


def from_pictures(
    coder: Coder, pictures: Mapping[int, Float[Tensor, "b 3 1 h w"]], latent_frames: int, padding: int = 0
) -> Conditioning:
    """Pictures at pixel frames, by their number: a first image, a last one, key frames between.

    An image-to-video model reads each, encoded by itself, at the latent of its frame, zeros elsewhere. In 1.5 with
    padding, the first stands at index 0, the latent that is later dropped: the released layout. A model that reads one
    picture in every frame gets the first everywhere. A text-to-video model gets the first as a known first frame.
    Raises InputError for more pictures than the model reads.
    """
    spec = coder.model.spec
    way = "i2v" if set(pictures) == {0} else "keyframes"
    if spec.kind == "i2v":
        ratio = spec.vae.temporal_compression_ratio
        coded = {
            _latent_of(frame, ratio, padding): coder.picture(each) for frame, each in sorted(pictures.items())
        }
        places = {"frames": sorted(pictures), "latents": sorted(coded)}
        facts: dict[str, Any] = {} if way == "i2v" else places
        channels = _at_places(coded, latent_frames)
        return Conditioning(way, channels=channels, facts=facts, pictures=tuple(sorted(coded)))
    if set(pictures) != {0}:
        raise InputError(
            f"pictures at frames {', '.join(map(str, sorted(pictures)))}: the model {spec.name or 'given'} "
            f"({spec.kind}) takes an image for frame 0 alone; load an image-to-video or an inpainting model for others"
        )
    if spec.kind == "i2v-every-frame":
        picture = coder.picture(pictures[0]).expand(-1, -1, latent_frames, -1, -1)
        return Conditioning("i2v", channels=picture.contiguous())
    facts = {"method": "first latent replaced at every step: the model was not trained on images"}
    return Conditioning("i2v", known=_padded(coder.video(pictures[0]), padding), facts=facts)


def from_video(
    coder: Coder, pixels: Float[Tensor, "b 3 f h w"], padding: int, strength: float
) -> Conditioning:
    """A video to change: its latents are noised to ``strength`` of the way and denoised again.

    The latent that 1.5 wants in front is a copy of the first one, as in its training.
    """
    latents = _padded(coder.video(pixels), padding)
    read = Conditioning(channels=nothing_known(coder, tuple(latents.shape)))
    if coder.model.spec.needs_image:
        read = from_pictures(coder, {0: pixels[:, :, :1]}, latents.shape[2])
    facts = {"strength": strength}
    return replace(read, way="v2v", start=latents, strength=strength, facts=facts)


def continuation(
    coder: Coder, pixels: Float[Tensor, "b 3 f h w"], latent_frames: int, padding: int = 0
) -> Conditioning:
    """Carry on after these frames (the end of a video): f is 1 for an image-to-video model, else any 8n + 1.

    An image-to-video model starts from the last frame, which it was trained to do. Other models keep the
    latents of the given frames as the known beginning. Either way the new video begins with the given frames.
    """
    if coder.model.spec.needs_image:
        first = from_pictures(coder, {0: pixels[:, :, -1:]}, latent_frames, padding)
        how: dict[str, Any] = {"method": "image-to-video from the last frame", "context_frames": 1}
        return replace(first, way="continuation", facts=how)
    known = _padded(coder.video(pixels), padding)
    if known.shape[2] >= latent_frames:
        raise FrameError(
            f"context of {pixels.shape[2]} frames: it fills {known.shape[2]} of {latent_frames} latents "
            "and leaves nothing to make; ask for more frames or give less context"
        )
    facts = {"method": "known latents replaced at every step", "context_frames": pixels.shape[2]}
    return Conditioning("continuation", known=known, facts=facts)


def inpainting(
    coder: Coder,
    pixels: Float[Tensor, "b 3 f h w"],
    mask: Float[Tensor, "b 1 f h w"],
    padding: int = 0,
    strength: float = 1.0,
) -> Conditioning:
    """A video with a hole for a model that was trained to fill holes: ``mask`` is 1 where it is made anew, 0 elsewhere.

    The channels of CogVideoX-Fun InP: the mask of what is known, resized and scaled, and the latents of the video with
    black in the hole. Where nothing is known both are zero. ``strength`` below 1 starts from the video itself.
    """
    start = _padded(coder.video(pixels), padding) if strength < 1 else None
    shares = {"made_anew": round(float(mask.mean()), 4), "strength": strength}
    if bool((mask == 1).all()):
        latents = pixels.shape[2] // coder.model.vae.config.temporal_compression_ratio + 1 + padding
        ratio = coder.model.vae.config.spatial_compression_ratio
        shape = (len(pixels), 0, latents, pixels.shape[3] // ratio, pixels.shape[4] // ratio)
        return Conditioning(
            "inpaint", nothing_known(coder, shape), start=start, strength=strength, facts=shares
        )
    black = -1.0 if pixels.is_floating_point() else torch.zeros((), dtype=pixels.dtype)
    masked = coder.video(coder.noised(torch.where(mask == 1, black, pixels)), sample=False)
    factor = coder.model.vae.config.scaling_factor
    known = resize_mask(1 - mask, (masked.shape[2], *masked.shape[3:])).to(masked) * factor
    channels = _padded(torch.cat([known, masked], dim=1), padding)
    return Conditioning("inpaint", channels, start=start, strength=strength, facts=shares)


def controlled(coder: Coder, pixels: Float[Tensor, "b 3 f h w"], padding: int = 0) -> Conditioning:
    """A control video (poses, edges, depth), read whole at every step: the channel layout of CogVideoX-Fun Control."""
    return Conditioning("control", _padded(coder.video(pixels, sample=False), padding))


def removal(
    coder: Coder, pixels: Float[Tensor, "b 3 f h w"], mask: Float[Tensor, "b 1 f h w"], padding: int = 0
) -> Conditioning:
    """A video and a mask of what is removed from it: 1 where it goes, 0 where it stays, between where it is affected.

    The layout of Netflix VOID: 1 - mask goes through the autoencoder as a grey picture in [0, 1], not in [-1, 1]; the
    video goes through it whole.
    """
    coded = coder.video((1 - mask).expand(-1, 3, -1, -1, -1), sample=False)
    video = coder.video(coder.noised(pixels), sample=False)
    return Conditioning("removal", _padded(torch.cat([coded, video], dim=1), padding))


def resize_mask(mask: Float[Tensor, "b 1 f h w"], size: tuple[int, int, int]) -> Float[Tensor, "b 1 t h2 w2"]:
    """A mask of pixels at the size of latents, the rule that CogVideoX-Fun InP was trained with.

    The first frame is resized by itself, the others together, all linearly: a latent sees the two middle frames of its
    four, and the two middle pixels of its eight along each side.
    """
    t, h, w = size
    first = F.interpolate(mask[:, :, :1], (1, h, w), mode="trilinear", align_corners=False)
    if t == 1:
        return first
    rest = F.interpolate(mask[:, :, 1:], (t - 1, h, w), mode="trilinear", align_corners=False)
    return torch.cat([first, rest], dim=2)


def _latent_of(frame: int, ratio: int, padding: int) -> int:
    """The latent that holds a pixel frame; frame 0 stands at the very front, also before padding."""
    return 0 if frame == 0 else padding + (frame - 1) // ratio + 1


def _at_places(coded: Mapping[int, Tensor], latent_frames: int) -> Tensor:
    """Latent frames at their indices of ``latent_frames``, zeros elsewhere."""
    first = next(iter(coded.values()))
    whole = first.new_zeros(*first.shape[:2], latent_frames, *first.shape[3:])
    for index, latent in coded.items():
        whole[:, :, index : index + 1] = latent
    return whole


def _padded(latents: Tensor, padding: int) -> Tensor:
    """``padding`` copies of the first latent frame in front."""
    return torch.cat([latents[:, :, :1]] * padding + [latents], dim=2)
