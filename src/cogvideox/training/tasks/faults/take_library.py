"""Clean clips to start from: single takes of a folder of videos, and textures and shapes that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cogvideox.clip_folders.video_files import list_videos
from cogvideox.curation.shot_views import ShotViews
from cogvideox.curation.shots import Shots
from cogvideox.curation.step import Look
from cogvideox.errors import InputError, MediaError
from cogvideox.perception.flow import opencv
from cogvideox.training.tasks.faults.drawing import fit
from cogvideox.video import open_decoder
from cogvideox.video.reading import DecodeLimits

SIDE = 128
FRAMES = 20  # at eight a second
WIDTHS = (128, 160, 192, 224)


@dataclass
class TakeLibrary:
    """Takes ``uint8 [n, 128, w, 3]`` by video; ``known`` are labels a video has by itself."""

    takes: dict[str, list[np.ndarray]]
    known: dict[str, dict[str, bool]] = field(default_factory=dict)

    def only(self, names: set[str]) -> TakeLibrary:
        """The takes of these videos alone."""
        return TakeLibrary({name: takes for name, takes in self.takes.items() if name in names}, self.known)

    def clip(self, rng: np.random.Generator, width: int) -> tuple[np.ndarray, str]:
        """A window ``uint8 [20, 128, width, 3]`` of some video (or drawn, one in eight), and the video's name."""
        if rng.random() < 0.125 or not self.takes:
            return drawn(rng, width), ""
        name = sorted(self.takes)[int(rng.integers(len(self.takes)))]
        takes = self.takes[name]
        take = takes[int(rng.integers(len(takes)))]
        start = int(rng.integers(max(1, len(take) - FRAMES + 1)))
        frames = take[start : start + FRAMES]
        if len(frames) < FRAMES:  # there and back again
            frames = np.concatenate([frames, frames[::-1], frames, frames[::-1]])[:FRAMES]
        if rng.random() < 0.5:
            frames = frames[:, :, ::-1]
        left = int(rng.integers(max(1, frames.shape[2] - width + 1)))
        return fitted(frames[:, :, left : left + width], width), name


def read_stock(folder: Path, known: Mapping[str, Mapping[str, bool]] | None = None) -> TakeLibrary:
    """Takes of two seconds and more of all videos of a folder. Raises InputError when there are none."""
    takes: dict[str, list[np.ndarray]] = {}
    shots, look = Shots(min_seconds=1.5, max_seconds=6.0), Look(side=SIDE, fps=8.0)
    for one in list_videos(folder):
        try:
            with open_decoder(folder / one.path, DecodeLimits(frames=4096)) as decoder:
                segments = ShotViews(decoder, shots, look).segments()
                pictures = [segment.view.pictures for segment in segments if segment.view]
        except MediaError:
            continue  # a broken video gives no takes
        wide = [take for take in pictures if take.shape[1] <= take.shape[2] and len(take) >= 8]
        if wide:
            takes[one.path] = wide[:8]
    if not takes:
        raise InputError(f"{folder}: no video has a take of 1.5 seconds; give a folder of clean clips")
    return TakeLibrary(takes, {name: dict(labels) for name, labels in (known or {}).items()})


def drawn(rng: np.random.Generator, width: int) -> np.ndarray:
    """A texture that drifts, with discs that move on their own."""
    cv2 = opencv()
    blobs = rng.uniform(0, 255, (6, 9, 3)).astype(np.float32)
    base = cv2.resize(blobs, (width * 2, SIDE * 2), interpolation=cv2.INTER_CUBIC)
    grain, stripes = rng.normal(0, 6, base.shape[:2]), np.arange(width * 2) * rng.uniform(0.05, 0.4)
    base += grain[..., None] + 18 * np.sin(stripes)[None, :, None]
    speed, discs = rng.uniform(-3, 3, 2), rng.uniform(0, 1, (4, 2))
    moves, inks = rng.normal(0, 0.025, (4, 2)), rng.integers(0, 256, (4, 3))
    frames = []
    for n in range(FRAMES):
        top, left = (int(abs(v * n)) % limit for v, limit in zip(speed, (SIDE, width), strict=True))
        frame = base[top : top + SIDE, left : left + width].clip(0, 255).astype(np.uint8).copy()
        for place, move, ink in zip(discs, moves, inks, strict=True):
            x, y = (place + n * move) % 1
            cv2.circle(frame, (int(x * width), int(y * SIDE)), 12, ink.tolist(), -1, cv2.LINE_AA)
        frames.append(frame)
    return np.stack(frames)


def as_another_video(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The take as other people might have shot it: framing, pace, light, colour, softness and grain of another video.

    There are few videos to train on, and a label must not depend on the look of one of them. The amounts are harmless.
    """
    cv2 = opencv()
    t, h, w = frames.shape[:3]
    if rng.random() < 0.5:  # closer
        zoom = rng.uniform(1.0, 1.8)
        y, x = rng.uniform(0, h - h / zoom), rng.uniform(0, w - w / zoom)
        part = frames[:, int(y) : int(y) + int(h / zoom), int(x) : int(x) + int(w / zoom)]
        frames = np.stack([cv2.resize(frame, (w, h), interpolation=cv2.INTER_LINEAR) for frame in part])
    if rng.random() < 0.3:  # slower, without new pictures in between being sharp or still
        pace = rng.uniform(0.5, 1.0)
        place = np.arange(t) * pace
        low, share = place.astype(int), (place % 1)[:, None, None, None]
        frames = (frames[low] * (1 - share) + frames[np.minimum(low + 1, t - 1)] * share).astype(np.uint8)
    if rng.random() < 0.3:
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.3, 1.2)) for frame in frames])
    if rng.random() < 0.7:
        level = np.arange(256) / 255
        curve = level ** np.exp(rng.normal(0, 0.3))
        curve = 0.5 + (curve - 0.5) * rng.uniform(0.6, 1.3) + rng.normal(0, 0.06)
        frames = (curve.clip(0, 1) * 255).astype(np.uint8)[frames]
    if rng.random() < 0.5:
        grey = frames.mean(axis=3, keepdims=True)
        vivid, tint = rng.uniform(0, 1.5), rng.normal(1, 0.06, 3)
        frames = ((grey + (frames - grey) * vivid) * tint).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        frames = (frames + rng.normal(0, rng.uniform(1, 6), frames.shape)).clip(0, 255).astype(np.uint8)
    return frames


def fitted(frames: np.ndarray, width: int) -> np.ndarray:
    """Frames scaled to 128 x ``width``; those of that size stay as they are."""
    if frames.shape[1:3] == (SIDE, width):
        return np.ascontiguousarray(frames)
    return fit(frames, SIDE, width)
