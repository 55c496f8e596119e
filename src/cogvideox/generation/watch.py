"""The video so far, while it is made: pictures of a step's clean estimate, by a decoder that costs next to nothing.

A tiny autoencoder decodes it where one is at hand. Without one, each latent pixel becomes one pixel through a linear
map of its channels to colours, fitted to the model's own autoencoder when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cogvideox.files.atomic import atomic_file
from cogvideox.generation.plan import Plan
from cogvideox.generation.turn import Progress
from cogvideox.model import CogVideoX
from cogvideox.noise import generator
from cogvideox.vae.tiny import TinyVAE
from cogvideox.video.saving import label, write_gif

GROUNDS = 24  # made pictures that colours are fitted on, beside two that are all colour
SIDE = 12
"""The side in latent pixels of the pictures that colours are fitted on."""
SHORT_SIDE = 96
"""Least height of a written preview in pixels."""


class Previewer:
    """Clean latents of a model to small frames: ``Previewer(model)(progress.estimate)`` is uint8 [t, h, w, 3].

    ``tiny``: the tiny autoencoder of the model's latents; without it frames are as small as the latents.
    """

    def __init__(self, model: CogVideoX, tiny: TinyVAE | None = None) -> None:
        self.model, self.tiny = model, tiny
        self._colours: Tensor | None = None

    @torch.no_grad()
    def __call__(self, estimate: Float[Tensor, "1 c t h w"]) -> np.ndarray:
        """Frames of the clean estimate of a step, scaled latents as the transformer has them."""
        config = self.model.vae.config
        latents = estimate.float() / config.scaling_factor + (config.shift_factor or 0.0)
        if self.tiny is not None:
            weight = next(self.tiny.parameters())
            pixels = self.tiny.decode(latents.to(weight.device, weight.dtype)).float()
        else:
            if self._colours is None:
                self._colours = fit_colours(self.model)
            pixels = to_colours(latents, self._colours.to(latents.device)).clamp(-1, 1)
        return ((pixels[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()


def to_colours(
    latents: Float[Tensor, "b c t h w"], colours: Float[Tensor, "c1 3"]
) -> Float[Tensor, "b 3 t h w"]:
    """Each latent pixel through a linear map of its channels, the last row of which is added."""
    mapped = torch.einsum("bcthw,cd->bdthw", latents, colours[:-1])
    return mapped + colours[-1].view(1, 3, 1, 1, 1)


@torch.no_grad()
def fit_colours(model: CogVideoX) -> Float[Tensor, "c1 3"]:
    """The linear map from the (unscaled) latents of a model to colours in [-1, 1], by least squares.

    Fitted on a few made pictures that the model's autoencoder encodes: seconds of work for any model.
    """
    config = model.vae.config
    side = SIDE * config.spatial_compression_ratio
    pictures = _pictures(side)
    weight = next(model.vae.parameters())
    rows, targets = [], []
    for picture in pictures:
        latents = model.vae.encode(picture[None, :, None].to(model.device, weight.dtype)).mode()
        rows.append(latents[0, :, 0].flatten(1).T.float().cpu())
        pooled = F.avg_pool2d(picture[None], config.spatial_compression_ratio)
        targets.append(pooled[0].flatten(1).T)
    features = torch.cat(rows)
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    ridge = 1e-2 * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
    return torch.linalg.solve(features.T @ features + ridge, features.T @ torch.cat(targets).double()).float()


def _pictures(side: int) -> Float[Tensor, "n 3 side side"]:
    """Grey grounds with soft patches of colour, and two that are all colour; the same ones always. Of six grounds the
    colours of some autoencoders were off by an eighth of the range."""
    source = generator(0, "preview colours")

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source)

    def spread(x: Tensor, mode: str = "bilinear") -> Tensor:
        return F.interpolate(x, (side, side), mode=mode, align_corners=False)

    ground = spread((draw(GROUNDS, 1, 2, 2) * 1.2 - 0.6).expand(-1, 3, -1, -1))
    patches = spread((draw(GROUNDS, 1, 6, 6) > 0.8).float())
    colours = spread(draw(GROUNDS, 3, 3, 3) * 2 - 1)
    colourful = spread(draw(2, 3, 4, 4) * 2 - 1, "bicubic")
    return torch.cat([ground * (1 - patches) + colours * patches, colourful]).clamp(-1, 1)


class Watch:
    """Writes a GIF that grows: the preview of every ``every``-th step, one after the other; pass it as ``on_step``.

    ``then`` is called with each Progress too.
    """

    def __init__(
        self,
        previewer: Previewer,
        plan: Plan,
        path: Path,
        every: int,
        then: Callable[[Progress], None] | None = None,
    ) -> None:
        self.previewer, self.plan, self.path, self.every, self.then = previewer, plan, path, every, then
        self.frames: list[np.ndarray] = []

    def __call__(self, progress: Progress) -> None:
        """Add the preview of a step that is due, or the last one, and write the file again, whole."""
        if self.then is not None:
            self.then(progress)
        due = progress.done % self.every == 0 or progress.done == progress.total
        if progress.stage != "denoise" or progress.estimate is None or not due:
            return
        kept = progress.estimate[:, :, self.plan.frames.padding :]
        self.frames.append(self.previewer(kept))
        with atomic_file(self.path, overwrite=True) as temporary:
            shown = self.previewer.model.vae.config.pixel_frames(
                kept.shape[2]
            )  # of a segment fewer than planned
            fps = self.plan.fps * len(self.frames[0]) / shown
            write_gif(temporary, np.concatenate(self.frames), fps, label(), SHORT_SIDE)
