"""The noise that the second pass of a removal starts from: it moves like the first pass's video (Netflix VOID)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cogvideox.diffusion.warped_noise import warped_noise
from cogvideox.noise import generator
from cogvideox.perception.flow import Dis, Flow, Raft
from cogvideox.spec import ModelSpec
from cogvideox.video import Video

FRAMES = 72
"""Frames of the first pass that are looked at, whatever its length."""
NATIVE, SIZE = (384, 672), (480, 720)
"""The size they are looked at for models of this native size; in proportion for others."""
POINTS = 4
"""Points of the noise grid along a side of a pixel; 32 along a side of a value of the noise, which has 8 pixels."""
MOST_LATENTS = 22
"""Latent frames that a second pass makes at most: 85 frames."""


def flow_of(weights: str | None, device: str = "cpu") -> Flow:
    """RAFT from a file of its weights, without one OpenCV's DIS. Raises CheckpointError, DependencyError."""
    if weights is None:
        return Dis().build()
    return Raft(weights=weights, device=device if device.startswith("cuda") else "cpu").build()


def moving_noise(
    first: Video, spec: ModelSpec, shape: tuple[int, int, int, int, int], seed: int, flow: Flow
) -> Float[Tensor, "1 c t h w"]:
    """Noise of ``shape`` that is carried along the optical flow of ``first``, picked and resized as in training.

    It is not scaled afterwards: resizing between values leaves its standard deviation below 1.
    """
    _, channels, latents, height, width = shape
    tall, wide = (
        8 * max(1, round(size * side / (native * 8)))
        for size, side, native in zip((spec.height, spec.width), SIZE, NATIVE, strict=True)
    )
    flows = _flows(first, tall, wide, flow)
    wanted = np.linspace(0, FRAMES - 1, latents).astype(int).tolist()
    frames = {}
    grid = warped_noise(flows, channels, tall // 8, wide // 8, 8 * POINTS, generator(seed, "moving noise"))
    for number, noise in enumerate(grid):
        if number in wanted:
            frames[number] = F.interpolate(noise[None], (height, width), mode="bilinear", align_corners=False)
    return torch.stack([frames[number] for number in wanted], 2)


def _flows(first: Video, height: int, width: int, flow: Flow) -> Iterator[Float[Tensor, "2 h w"]]:
    """The flow from each looked-at frame to the next, in points of the noise grid; found at half the size."""
    picked = np.linspace(0, len(first) - 1, FRAMES).astype(int)
    size = width // 2, height // 2
    small = {
        number: np.asarray(Image.fromarray(first.frames[number]).resize(size, Image.Resampling.BILINEAR))
        for number in set(picked.tolist())
    }
    seen = [small[number] if flow.colour else _grey(small[number]) for number in picked.tolist()]
    for before, after in zip(seen, seen[1:], strict=False):
        field = torch.from_numpy(np.ascontiguousarray(flow(before, after))).float().permute(2, 0, 1)[None]
        fine = F.interpolate(field, (height * POINTS, width * POINTS), mode="bilinear", align_corners=False)
        yield fine[0] * (2 * POINTS)


def _grey(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32).mean(-1).round().astype(np.uint8)
