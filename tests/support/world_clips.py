"""Clips of the tiny world as stages see them."""

from __future__ import annotations

from cogvideox.captioning.describe import ClipSource
from cogvideox.captioning.stages import ClipFrames
from cogvideox.world import render, sample_scene


def scene_of(index: int, tier: str | None = None):
    return sample_scene(11, index, tier=tier)


def clip_of(index: int, tier: str | None = None) -> ClipFrames:
    frames = render(scene_of(index, tier))
    return ClipFrames(f"clip-{index:03d}", frames, tuple(i / 8 for i in range(len(frames))))


def footage_of(count: int) -> list[ClipSource]:
    return [ClipSource(f"clip-{i:03d}", lambda i=i: clip_of(i)) for i in range(count)]
