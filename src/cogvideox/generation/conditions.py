"""What a run was given, as the conditions that its model reads: laid over the frames of the plan, then encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from PIL import Image
from torch import Tensor

from cogvideox import conditioning
from cogvideox.brief import Brief
from cogvideox.conditioning import Coder, Conditioning
from cogvideox.generation.control_nets import load_control_nets
from cogvideox.generation.given import Given, fit_mask, fit_video
from cogvideox.generation.plan import Plan
from cogvideox.generation.sampling import Noises
from cogvideox.model import CogVideoX
from cogvideox.perception.canny import canny
from cogvideox.spec import ModelSpec
from cogvideox.transformer.controlnet import Control
from cogvideox.video import Video, contact_sheet
from cogvideox.video.video import in_range


@dataclass(frozen=True, repr=False)
class Shown(Brief):
    """What a network is shown besides the prompt, in pixels, over all frames of a plan.

    ``use``: what it is for. ``pixels``: a video in [-1, 1], or as bytes. ``mask``: 0 to 1, where they are made anew or
    removed. ``pictures``: single frames by their number. ``controls``: the control video of each ControlNet, as bytes.
    """

    use: Literal["nothing", "control", "removal", "inpaint", "pictures", "continue", "change"]
    pixels: Num[Tensor, "1 3 f h w"] | None = None
    mask: Float[Tensor, "1 1 f h w"] | None = None
    pictures: Mapping[int, Float[Tensor, "1 3 1 h w"]] = field(default_factory=dict)
    controls: tuple[UInt8[Tensor, "1 3 f h w"], ...] = ()

    def sheet(self, plan: Plan, columns: int = 8) -> Image.Image:
        """Frames of ``video`` in a row: evenly spaced ones, and every one that was given as a picture."""
        frames = self.video(plan).frames
        picks = set(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int).tolist())
        picks |= set(self.pictures)
        if self.mask is not None:
            known = (self.mask < 1).flatten(2).any(2)[0, 0].nonzero().flatten().tolist()
            picks |= set(known) if len(known) <= columns else set()
        chosen = sorted(picks)
        caption = f"frames {', '.join(map(str, chosen))} of {len(frames)}"
        return contact_sheet([Video(frames[chosen], plan.fps)], [caption], columns=len(chosen))

    def video(self, plan: Plan) -> Video:
        """It as a video to look at: what is hidden from the network is black, frames without a picture are grey.

        A mask stands below the video it is over, as the network reads it: white where it is made anew or removed. The
        control videos of ControlNets stand below that.
        """
        frames = plan.frames.generated
        grey = torch.zeros(1, 3, frames, plan.height, plan.width)
        pixels = grey if self.pixels is None else in_range(self.pixels)
        for number, picture in self.pictures.items():
            pixels[:, :, number : number + 1] = picture
        if self.mask is not None:
            hidden = torch.where(self.mask == 1, -1.0, pixels) if self.use == "inpaint" else pixels
            pixels = torch.cat([hidden, self.mask.expand(-1, 3, -1, -1, -1) * 2 - 1], dim=3)
        if self.controls:
            above = [] if self.use == "nothing" else [pixels]
            pixels = torch.cat([*above, *map(in_range, self.controls)], dim=3)
        return Video.from_tensor(pixels, plan.fps)


def shown(spec: ModelSpec, plan: Plan, given: Given) -> Shown:
    """What the networks of a run are shown; nothing is encoded and no weight is needed. Raises InputError."""
    controls = dict[int, Tensor]()  # ControlNets that share a video share what is made of it
    nets = list(zip(plan.options.control_nets, given.control_nets, strict=False))
    for entry, video in nets:
        if id(video) not in controls:
            controls[id(video)] = _control(video, plan, as_given=entry.video is not None)
    return replace(_shown(spec, plan, given), controls=tuple(controls[id(video)] for _, video in nets))


def _shown(spec: ModelSpec, plan: Plan, given: Given) -> Shown:
    """What the model itself is shown."""
    if not given.for_model:
        return Shown("nothing")
    if given.control is not None:
        return Shown("control", _control(given.control, plan))
    if given.video is not None and given.remove is not None:
        mask = _as_removed(_mask(given.remove, plan), given.quad)
        if given.first_pass is not None:  # the second pass takes away what is affected too
            mask = (mask > 0).float()
        return Shown("removal", _whole(given.video, plan).to_bytes(), mask)
    if given.video is not None and given.mask is not None:
        mask = (_mask(given.mask, plan, given.outside) >= 0.5).float()
        return Shown("inpaint", _whole(given.video, plan).to_bytes(), mask)
    continued = plan.options.video_use == "continue"
    if given.video is not None and not continued:
        return Shown("change", _whole(given.video, plan).to_bytes())
    pictures = {
        number + plan.frames.front: _fitted(Video(picture[None], 1.0), plan)
        for number, picture in given.pictures(plan.frames.asked).items()
    }
    if spec.kind == "inpaint":  # it reads key frames and the end of a video as frames that are known
        known = dict(enumerate(_end(given.video, plan).frames)) if given.video is not None else {}
        known |= {number: picture.frames[0] for number, picture in pictures.items()}
        return Shown("inpaint", *_known_frames(known, plan.frames.generated))
    if given.video is not None:
        return Shown("continue", _end(given.video, plan).to_tensor())
    return Shown("pictures", pictures={number: each.to_tensor() for number, each in pictures.items()})


def condition_of(model: CogVideoX, plan: Plan, given: Given, noises: Noises) -> Conditioning:
    """The conditions of a run, encoded by the model's autoencoder. Raises InputError for what it cannot be given."""
    options, frames, strength = plan.options, plan.frames, plan.options.strength
    coder = Coder(
        model,
        noises.dtype,
        noises.encoding(),
        options.sample_image,
        options.vae_coding,
        plan.tiles,
        options.image_scale,
        noises.condition(),
    )
    see = _shown(model.spec, plan, given)
    assert strength is not None  # plan_run fills it in
    if see.use == "nothing":
        text = conditioning.from_text(model.spec)
        return Conditioning(text.way, conditioning.nothing_known(coder, plan.latent_shape))
    if see.use == "pictures":
        return conditioning.from_pictures(coder, see.pictures, frames.latents, frames.padding)
    assert see.pixels is not None  # every other use has them
    if see.use == "continue":
        return conditioning.continuation(coder, see.pixels, frames.latents, frames.padding)
    if see.use == "change":
        return conditioning.from_video(coder, see.pixels, frames.padding, strength)
    if see.use == "control":
        return conditioning.controlled(coder, see.pixels, frames.padding)
    assert see.mask is not None
    if see.use == "removal":
        return conditioning.removal(coder, see.pixels, see.mask, frames.padding)
    return conditioning.inpainting(
        coder, see.pixels, see.mask, frames.padding, strength if given.mask is not None else 1.0
    )


def controls_of(model: CogVideoX, plan: Plan, given: Given) -> list[Control]:
    """The ControlNets of a run, their control videos encoded; they are loaded where the model has them not yet.

    Raises ConfigError, CheckpointError.
    """
    entries = plan.options.control_nets
    load_control_nets(model, entries)
    controls, encoded = [], dict[tuple[str, int], Tensor]()
    for entry, pixels in zip(
        entries, shown(model.spec, plan, given).controls if entries else (), strict=True
    ):
        network, key = model.control_nets[entry.path], (entry.path, id(pixels))
        if key not in encoded:
            encoded[key] = network.encode(in_range(pixels.to(model.device)).to(model.dtype))
        controls.append(Control(network, encoded[key], entry.strength, entry.start, entry.stop))
    return controls


def _known_frames(
    known: Mapping[int, np.ndarray], frames: int
) -> tuple[Float[Tensor, "1 3 f h w"], Float[Tensor, "1 1 f h w"]]:
    """Known frames in a video of so many, the last one before repeated between them, and 1 where none is known."""
    order = sorted(known)
    before = [
        max((number for number in order if number <= frame), default=order[0]) for frame in range(frames)
    ]
    pixels = Video(np.stack([known[number] for number in before]), 1.0).to_tensor()
    mask = torch.ones(1, 1, frames, *pixels.shape[3:])
    mask[:, :, order] = 0
    return pixels, mask


def _end(video: Video, plan: Plan) -> Video:
    """The last frames of a video, those that a continuation sees."""
    return Video(_fitted(video, plan).frames[-plan.context :], plan.fps)


def _control(video: Video, plan: Plan, as_given: bool = False) -> UInt8[Tensor, "1 3 f h w"]:
    """A control video over all frames, with what the preprocessor of the run makes of it unless it is ``as_given``."""
    if len(video) == 1:
        video = Video(np.repeat(video.frames, plan.frames.asked, axis=0), plan.fps)
    laid = _whole(video, plan)
    if plan.options.control_preprocessor == "canny" and not as_given:
        laid = Video(canny(laid.frames), laid.fps)
    return laid.to_bytes()


def _whole(video: Video, plan: Plan) -> Video:
    """A video over all frames of the plan: cut to those asked for, its first and last repeated where more are made."""
    frames = plan.frames
    edges = ((frames.front, frames.back), (0, 0), (0, 0), (0, 0))
    return Video(np.pad(_fitted(video, plan).frames[: frames.asked], edges, mode="edge"), plan.fps)


def _fitted(video: Video, plan: Plan) -> Video:
    return fit_video(video, plan.height, plan.width, plan.options.fit)


def _mask(mask: np.ndarray, plan: Plan, outside: bool = False) -> Float[Tensor, "1 1 f h w"]:
    """A mask over all frames of the plan, 0 to 1, laid like the video it is over; ``outside``: white in its bars."""
    frames = plan.frames
    laid = fit_mask(mask[: frames.asked], plan.height, plan.width, plan.options.fit, outside)
    padded = np.pad(laid, ((frames.front, frames.back), (0, 0), (0, 0)), mode="edge")
    return torch.from_numpy(padded)[None, None].float() / 255


def _as_removed(mask: Float[Tensor, "1 1 f h w"], quad: bool = False) -> Float[Tensor, "1 1 f h w"]:
    """The three levels that Netflix VOID's first pass reads: gone (1), affected (127/255), kept (0).

    ``quad``: of four levels (gone 0, gone and affected 63, affected 127, kept 255 in the file), each the nearest one.
    """
    if quad:
        stored = 255 - 255 * mask
        levels = torch.tensor((1.0, 192 / 255, 128 / 255, 0.0))
        mask = levels[torch.bucketize(stored, torch.tensor((31.5, 95.5, 191.5)))]
    affected = torch.full_like(mask, 127 / 255)
    return torch.where(mask > 0.75, torch.ones_like(mask), torch.where(mask >= 0.25, affected, 0.0))
