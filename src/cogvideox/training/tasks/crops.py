"""What the autoencoder learns from: random crops in time and space of clips, of the tiny world or of a folder."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from cogvideox.config import Config
from cogvideox.data.clips import FolderClips, WorldClips, to_model
from cogvideox.errors import ConfigError, MediaError
from cogvideox.noise import generator
from cogvideox.training.tasks.folder import (
    FolderData,
    check_dropped,
    data_fingerprint,
    list_folder,
    report_dropped,
    train_and_held_out,
)
from cogvideox.training.tasks.sizes import clip_size
from cogvideox.world.hues import TURNS, free_turns

WORLD_FPS = 8
"""Frames a second of a clip of the world as it is rendered."""


class CropPhase(Config):
    """One phase of training: until which step, on which crops of clips."""

    until: int = Field(gt=0, description="last step of this phase")
    frames: int = Field(9, gt=0, description="frames of a crop, 8n + 1")
    size: int = Field(32, gt=0, description="height and width of a crop, in pixels")
    batch: int = Field(8, gt=0, description="crops of a micro-step")
    coding: Literal["whole", "chunked"] = Field("whole", description="whole clips, or chunks as at inference")
    on_objects: bool = Field(
        False, description="cut crops where an object of the world is, not anywhere: most of a clip is ground"
    )
    fps: tuple[float, float] = Field(
        (WORLD_FPS, WORLD_FPS),
        description="lowest and highest frame rate; each step draws one (the paper: 8 to 16 in the first stage)",
    )


class CropSource(Protocol):
    """Where crops come from; everything is a function of the seed and the number of the micro-step."""

    fingerprint: dict[str, Any] | None = None
    """What a state keeps of a folder that is read; None where nothing is read."""

    def crops(self, phase: CropPhase, micro_step: int) -> Float[Tensor, "b 3 t h w"]:
        """Random crops for one micro-step, in [-1, 1]."""

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """Whole clips to measure with, the same ones every time."""


class WorldCrops(CropSource):
    """Crops of the tiny world, rendered on the fly: a clip is seen once.

    ``scene_mix``: shares of the world's stories; None draws those of its test, in which, in the plain ``style``, two
    things never meet. ``hues``: share of the crops whose hues are turned, never into a combination that is held out.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        frames: int,
        scene_mix: Mapping[str, float] | None = None,
        style: str = "plain",
        hues: float = 0.0,
    ) -> None:
        self.seed, self.size, self.frames, self.scene_mix = seed, size, frames, scene_mix
        self.style, self.hues = style, hues
        self._clips = lru_cache(maxsize=None)(self._clips_of)

    def crops(self, phase: CropPhase, micro_step: int) -> Float[Tensor, "b 3 t h w"]:
        """One of each of ``phase.batch`` new clips."""
        return self._drawn(phase, micro_step, objects=False)

    def crops_and_objects(
        self, phase: CropPhase, micro_step: int
    ) -> tuple[Float[Tensor, "b 3 t h w"], Float[Tensor, "b 1 t h w"]]:
        """The crops, and how much of each of their pixels objects cover (0 to 1)."""
        drawn = self._drawn(phase, micro_step, objects=True)
        return drawn[:, :3], drawn[:, 3:]

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """32 clips of combinations that are never trained on, of the same mix of stories."""
        clips = self._clips("held_out", self.frames)
        for first in range(0, 32, 8):
            pixels = [clips.pixels(number) for number in range(first, first + 8)]
            yield to_model(torch.from_numpy(np.stack(pixels)))

    def _drawn(self, phase: CropPhase, micro_step: int, objects: bool) -> Tensor:
        frames = clip_frames(self.frames, _frame_rate(phase, self.seed, micro_step))
        clips = self._clips("train", frames)
        draw, turns = generator(self.seed, "crops", micro_step), generator(self.seed, "hues", micro_step)
        found = []
        for number in range(micro_step * phase.batch, (micro_step + 1) * phase.batch):
            pixels = to_model(torch.from_numpy(clips.pixels(number))[None])[0]
            if self.hues and float(torch.rand((), generator=turns)) < self.hues:
                pixels = turn_hues(pixels, _one_of(free_turns(clips.scene(number)), turns))
            covered = torch.from_numpy(clips.objects(number)) if objects or phase.on_objects else None
            if covered is not None and objects:
                pixels = torch.cat([pixels, covered[None]])
            found.append(_crop(pixels, phase, draw, covered if phase.on_objects else None))
        return _stacked(found)

    def _clips_of(self, split: str, frames: int) -> WorldClips:
        return WorldClips(self.seed, split, 32, self.size, frames, self.scene_mix, self.style)


class FolderCrops(CropSource):
    """Crops of the clips of a folder, each clip once an epoch in a new order; pictures where a phase has one frame.

    A clip that cannot be read, or is too short for a phase, is named once and the next one is used instead. Raises
    ConfigError when too many are unusable (``data.lost``), and when no clip is long enough for a phase. ``cached``:
    clips whose pixels are kept in memory. ``hues``: share of the crops whose hues are turned.
    """

    def __init__(self, data: FolderData, seed: int, cached: int = 64, hues: float = 0.0) -> None:
        self.data, self.seed, self.size, self.hues = data, seed, clip_size(data.size), hues
        listing = list_folder(data.changed(caption=data.caption or "no words are read here"))
        self.total = len(listing.entries) + len(listing.dropped)
        self.listings = train_and_held_out(data, listing)
        report_dropped(data, listing.dropped, self.total)
        train, test = (
            [[entry.name, entry.location.length] for entry in side.entries] for side in self.listings
        )
        self.fingerprint = data_fingerprint(train, test)
        self.dropped, self.short = set(listing.dropped), set[str]()
        self._read = lru_cache(maxsize=cached)(self._pixels)
        self._order = lru_cache(maxsize=2)(self._shuffled)
        if next(self.held_out(), None) is None:
            raise ConfigError(
                f"{data.folder}: no clip to measure with can be read; repair the clips named above, or set held_out"
            )

    def crops(self, phase: CropPhase, micro_step: int) -> Float[Tensor, "b 3 t h w"]:
        """One of each of the next ``phase.batch`` clips of the epoch."""
        fps = _frame_rate(phase, self.seed, micro_step)
        draw, turns = generator(self.seed, "crops", micro_step), generator(self.seed, "hues", micro_step)
        crops: list[Tensor] = []
        for number in range(micro_step * phase.batch, (micro_step + 1) * phase.batch):
            clip = torch.from_numpy(self._next(phase, number, fps))
            crop = _crop(to_model(clip[None])[0], phase, draw)
            if self.hues and float(torch.rand((), generator=turns)) < self.hues:
                crop = turn_hues(crop, _one_of(TURNS, turns))
            crops.append(crop)
        return _stacked(crops)

    def held_out(self) -> Iterator[Float[Tensor, "b 3 t h w"]]:
        """At most 16 videos held out, or pictures where there are no videos, one by one."""
        entries = self.listings[1].entries
        videos = [index for index, entry in enumerate(entries) if not entry.is_image]
        for index in (videos or range(len(entries)))[:16]:
            pixels = self._read(1, index, self.size.fps)
            if pixels is not None:
                yield to_model(torch.from_numpy(pixels)[None])

    def _next(self, phase: CropPhase, number: int, fps: float) -> np.ndarray:
        """The clip of sample ``number`` of the run, or the next one in the epoch's order that is long enough."""
        entries = self.listings[0].entries
        epoch, start = divmod(number, len(entries))
        order = self._order(epoch)
        for index in order[start:] + order[:start]:
            if phase.frames > 1 and entries[index].is_image:
                continue
            pixels = self._read(0, index, fps)
            if pixels is not None and len(pixels) >= phase.frames:
                return pixels
            if pixels is not None and (name := entries[index].name) not in self.short:
                self.short.add(name)
                print(f"{name}: {len(pixels)} frames, too short for crops of {phase.frames}", file=sys.stderr)
        raise ConfigError(
            f"{self.data.folder}: none of {len(entries)} clips has {phase.frames} frames at {fps:g} per second; use "
            "longer clips, or fewer frames in the phases"
        )

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.listings[0].entries)))
        random.Random(f"{self.seed}/crops/{epoch}").shuffle(order)
        return order

    def _pixels(self, side: int, index: int, fps: float) -> np.ndarray | None:
        """Frames of a clip to train on (side 0) or to measure with (1); None for one that is left out."""
        listing = self.listings[side]
        try:
            return FolderClips(listing, self.size.changed(fps=fps), colour=self.data.colour).pixels(index)
        except MediaError as error:
            name = listing.entries[index].name
            if name not in self.dropped:
                self.dropped.add(name)
                print(f"left out {name}: {error}", file=sys.stderr)
                check_dropped(self.data, len(self.dropped), self.total)
            return None


def clip_frames(frames: int, fps: float) -> int:
    """Frames at ``fps`` of a clip of the world that has ``frames`` frames at its usual rate."""
    return round((frames - 1) * fps / WORLD_FPS) + 1


def _frame_rate(phase: CropPhase, seed: int, micro_step: int) -> float:
    low, high = phase.fps
    return low + (high - low) * float(torch.rand((), generator=generator(seed, "fps", micro_step)))


def _crop(
    clip: Float[Tensor, "c t h w"],
    phase: CropPhase,
    draw: torch.Generator,
    covered: Float[Tensor, "t h w"] | None = None,
) -> Tensor:
    """A random crop; with ``covered``, how much of each pixel objects cover, one round a random pixel of an object."""
    sizes = (phase.frames, phase.size, phase.size)
    free = [have - want for have, want in zip(clip.shape[1:], sizes, strict=True)]
    t, y, x = (int(torch.randint(most + 1, (), generator=draw)) for most in free)
    if covered is not None:
        seen = (covered[t : t + phase.frames] > 0.5).nonzero()
        if len(seen):
            _, down, across = seen[int(torch.randint(len(seen), (), generator=draw))].tolist()
            y, x = (
                min(max(at - phase.size // 2, 0), most)
                for at, most in zip((down, across), free[1:], strict=True)
            )
    return clip[:, t : t + phase.frames, y : y + phase.size, x : x + phase.size]


def turn_hues(pixels: Float[Tensor, "3 ..."], degrees: float) -> Float[Tensor, "3 ..."]:
    """Pixels in [-1, 1], turned about the grey axis of RGB: grey stays, and 120 degrees make red green. What leaves the
    range is cut off."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) / math.sqrt(3)
    same, after, before = (1 + 2 * cosine) / 3, (1 - cosine) / 3 - sine, (1 - cosine) / 3 + sine
    matrix = [[same, after, before], [before, same, after], [after, before, same]]
    return torch.tensordot(pixels.new_tensor(matrix), pixels, dims=1).clamp(-1, 1)


def _one_of(turns: Sequence[int], draw: torch.Generator) -> int:
    return turns[int(torch.randint(len(turns), (), generator=draw))]


def _stacked(crops: list[Tensor]) -> Float[Tensor, "b 3 t h w"]:
    return torch.stack(crops).contiguous(memory_format=torch.channels_last_3d)
