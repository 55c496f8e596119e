"""Feature networks: a clip becomes one vector, so that sets of clips can be compared (FVD and its relatives).

Two numbers made from features are comparable only if everything on the FeatureCard is equal. ``load_i3d`` reads
the network of the published FVD from a file the user has; ``world_features`` is a small one that ships.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from cogvideox.errors import CheckpointError, FrameError
from cogvideox.files.text import open_regular

I3D_SIZE, I3D_FRAMES, I3D_LOGITS = 224, 16, 400


@dataclass(frozen=True)
class FeatureCard:
    """What decides the numbers: the network, its weights and how a clip is brought into its shape."""

    name: str
    version: str
    dim: int
    frames: int  # the first so many of a clip are read
    size: int  # pixels, square
    resize: Literal["cover", "stretch"]  # short side scaled and centre cut out, or both sides scaled
    weights_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values for JSON."""
        return asdict(self)


class FeatureExtractor(Protocol):
    """Clips in, features out."""

    @property
    def card(self) -> FeatureCard:
        """What decides the numbers."""

    def __call__(self, clips: Iterable[np.ndarray]) -> np.ndarray:
        """``uint8 [t, h, w, 3]`` each, t >= card.frames -> float64 ``[n, dim]``. Raises FrameError."""


@dataclass(frozen=True)
class NetworkFeatures:
    """A network with its card; clips go through it in batches of ``batch``."""

    card: FeatureCard
    network: Callable[[Float[Tensor, "b 3 t h w"]], Float[Tensor, "b dim"]]
    batch: int = 8

    def __call__(self, clips: Iterable[np.ndarray]) -> np.ndarray:
        """float64 ``[n, dim]``; raises FrameError for a clip that is too short."""
        rows = []
        prepared = (prepare(clip, self.card) for clip in clips)
        with torch.inference_mode():
            while some := list(islice(prepared, self.batch)):
                rows.append(self.network(torch.stack(some)).double().numpy())
        return np.concatenate(rows) if rows else np.empty((0, self.card.dim))


def prepare(clip: np.ndarray, card: FeatureCard) -> Float[Tensor, "3 t s s"]:
    """The first frames of a clip in [-1, 1], bilinearly scaled as the card says. Raises FrameError."""
    if len(clip) < card.frames:
        raise FrameError(f"{len(clip)} frames: {card.name} reads {card.frames}; make the clip longer")
    frames = torch.from_numpy(np.ascontiguousarray(clip[: card.frames])).permute(0, 3, 1, 2).float()
    height, width = frames.shape[2:]
    if card.resize == "stretch":
        target = (card.size, card.size)
    else:  # as StyleGAN-V does: the short side to the size, the long one in proportion
        scale = card.size / min(height, width)
        target = (max(card.size, round(height * scale)), max(card.size, round(width * scale)))
    if target != (height, width):
        frames = interpolate(frames, target, mode="bilinear", align_corners=False, antialias=False)
    top, left = (target[0] - card.size) // 2, (target[1] - card.size) // 2
    cut = frames[:, :, top : top + card.size, left : left + card.size]
    return cut.permute(1, 0, 2, 3) / 127.5 - 1


def load_i3d(
    path: str | Path, resize: Literal["cover", "stretch"] = "cover", batch: int = 8
) -> NetworkFeatures:
    """The I3D of published FVD numbers, from its TorchScript file: 400 Kinetics logits of 16 frames at 224.

    The file is a program and runs as one: give only a file you trust (its SHA-256 stands on the card).
    Raises CheckpointError for a file that is no TorchScript or gives something else than [b, 400].
    """
    try:
        with open_regular(path, most=4 << 30, error=CheckpointError) as stream:  # a pipe would wait for ever
            digest = hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest()
        script = torch.jit.load(str(path), map_location="cpu").eval()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        what = f"no TorchScript file ({reason})"
        raise CheckpointError(f"{path}: {what}; FVD needs i3d_torchscript.pt") from None

    def logits(pixels: Tensor) -> Tensor:
        out = script(pixels, rescale=False, resize=False, return_features=True)
        if out.ndim != 2 or out.shape[1] != I3D_LOGITS:
            raise CheckpointError(
                f"{path}: gives {list(out.shape)}, I3D gives [b, {I3D_LOGITS}]; another file?"
            )
        return out

    card = FeatureCard("i3d-k400-logits", "1", I3D_LOGITS, I3D_FRAMES, I3D_SIZE, resize, digest)
    return NetworkFeatures(card, logits, batch)
