"""What the autoencoder learns from: random pieces of clips, of the tiny world as it is rendered or of a folder."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from cogvideox.config import Config
from cogvideox.data.clips import FolderClips
from cogvideox.data.world import to_model, world_pixels
from cogvideox.errors import ConfigError, MediaError
from cogvideox.noise import generator
from cogvideox.training.tasks.folder import FolderData, check_lost, facts_of, listed, refuse_lost, split
from cogvideox.training.tasks.sizes import clip_size

WORLD_FPS = 8
"""Frames a second of a clip of the world as it is rendered."""


class Crops(Config):
    """One phase of training: until which step, on which pieces of clips."""

    until: int = Field(gt=0, description="last step of this phase")
    frames: int = Field(9, gt=0, description="frames of a piece, 8n + 1")
    size: int = Field(32, gt=0, description="height and width of a piece")
    batch: int = Field(8, gt=0, description="pieces a step")
    coding: Literal["whole", "chunked"] = Field("whole", description="as the VAE's own setting")
    fps: tuple[float, float] = Field(
        (WORLD_FPS, WORLD_FPS),
        description="lowest and highest frame rate; each step draws one (the paper: 8 to 16 in the first stage)",
    )


class CropSource(Protocol):
    """Where pieces come from; everything is a function of the seed and the number of the call."""

    facts: dict[str, Any] | None
    """What a state keeps of a folder that is read."""

    def pieces(self, phase: Crops, call: int) -> Float[Tensor, "b 3 t h w"]:
        """Random pieces for one call, in [-1, 1]."""

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """Whole clips to measure with, the same ones every time."""


class WorldCrops:
    """The tiny world, rendered on the fly: a clip is seen once."""

    facts = None

    def __init__(self, seed: int, size: int, frames: int) -> None:
        self.seed, self.size, self.frames = seed, size, frames

    def pieces(self, phase: Crops, call: int) -> Float[Tensor, "b 3 t h w"]:
        """Of as many clips as the phase has pieces."""
        first = call * phase.batch
        frames = clip_frames(self.frames, _rate(phase, self.seed, call))
        clips = world_pixels(self.seed, range(first, first + phase.batch), "train", self.size, frames)
        draw = generator(self.seed, "crops", call)
        return _stacked([_piece(clip, phase, draw) for clip in to_model(clips)])

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """32 clips of combinations that are never trained on."""
        for first in range(0, 32, 8):
            yield to_model(
                world_pixels(self.seed, range(first, first + 8), "held_out", self.size, self.frames)
            )


class FolderCrops:
    """Clips of a folder, each once an epoch in an order of its own; pictures where a phase asks for one frame.

    A clip that cannot be read, or is too short for a phase, is named once and another takes its place. Raises
    ConfigError when too many are lost (``data.lost``), and when no clip is long enough for a phase.
    """

    def __init__(self, data: FolderData, seed: int, kept: int = 64) -> None:
        self.data, self.seed, self.size = data, seed, clip_size(data.size)
        listing = listed(data.model_copy(update={"caption": data.caption or "no words are read here"}))
        self.total, self.listings = len(listing.entries) + len(listing.dropped), split(data, listing)
        check_lost(data, listing.dropped, self.total)
        self.facts = facts_of(
            *([[e.name, e.location.length] for e in side.entries] for side in self.listings)
        )
        self.dropped, self.short = set(listing.dropped), set[str]()
        self._read, self._order = lru_cache(maxsize=kept)(self._pixels), lru_cache(maxsize=2)(self._shuffled)
        if next(self.held_out(), None) is None:
            raise ConfigError(
                f"{data.folder}: no clip to measure with can be read; repair the clips named above, or set held_out"
            )

    def pieces(self, phase: Crops, call: int) -> Float[Tensor, "b 3 t h w"]:
        """Of the next clips of the epoch."""
        fps, draw = _rate(phase, self.seed, call), generator(self.seed, "crops", call)
        found: list[Tensor] = []
        for place in range(call * phase.batch, (call + 1) * phase.batch):
            clip = torch.from_numpy(self._next(phase, place, fps))
            found.append(_piece(to_model(clip[None])[0], phase, draw))
        return _stacked(found)

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """At most 16 videos held out, or pictures where there are no videos, one by one."""
        entries = self.listings[1].entries
        videos = [number for number, entry in enumerate(entries) if not entry.is_image]
        for number in (videos or range(len(entries)))[:16]:
            pixels = self._read(1, number, self.size.fps)
            if pixels is not None:
                yield to_model(torch.from_numpy(pixels)[None])

    def _next(self, phase: Crops, place: int, fps: float) -> np.ndarray:
        """The clip at this place of the run, or the first after it in the epoch's order that is long enough."""
        entries = self.listings[0].entries
        epoch, start = divmod(place, len(entries))
        order = self._order(epoch)
        for number in order[start:] + order[:start]:
            if phase.frames > 1 and entries[number].is_image:
                continue
            pixels = self._read(0, number, fps)
            if pixels is not None and len(pixels) >= phase.frames:
                return pixels
            if pixels is not None and (name := entries[number].name) not in self.short:
                self.short.add(name)
                print(
                    f"{name}: {len(pixels)} frames, too short for pieces of {phase.frames}", file=sys.stderr
                )
        raise ConfigError(
            f"{self.data.folder}: none of {len(entries)} clips has {phase.frames} frames at {fps:g} per second; use "
            "longer clips, or fewer frames in the phases"
        )

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.listings[0].entries)))
        random.Random(f"{self.seed}/crops/{epoch}").shuffle(order)
        return order

    def _pixels(self, side: int, number: int, fps: float) -> np.ndarray | None:
        """Frames of a clip; None for one that is left out."""
        listing = self.listings[side]
        size = self.size.model_copy(update={"fps": fps})
        try:
            return FolderClips(listing, size, colour=self.data.colour).pixels(number)
        except MediaError as error:
            name = listing.entries[number].name
            if name not in self.dropped:
                self.dropped.add(name)
                print(f"left out {name}: {error}", file=sys.stderr)
                refuse_lost(self.data, len(self.dropped), self.total)
            return None


def clip_frames(frames: int, fps: float) -> int:
    """Frames of a clip of the world at ``fps`` that has ``frames`` frames at its usual rate."""
    return round((frames - 1) * fps / WORLD_FPS) + 1


def _rate(phase: Crops, seed: int, call: int) -> float:
    low, high = phase.fps
    return low + (high - low) * float(torch.rand((), generator=generator(seed, "fps", call)))


def _piece(clip: Float[Tensor, "3 t h w"], phase: Crops, draw: torch.Generator) -> Tensor:
    pieces = (phase.frames, phase.size, phase.size)
    room = [have - want for have, want in zip(clip.shape[1:], pieces, strict=True)]
    t, y, x = (int(torch.randint(most + 1, (), generator=draw)) for most in room)
    return clip[:, t : t + phase.frames, y : y + phase.size, x : x + phase.size]


def _stacked(pieces: list[Tensor]) -> Float[Tensor, "b 3 t h w"]:
    return torch.stack(pieces).contiguous(memory_format=torch.channels_last_3d)
