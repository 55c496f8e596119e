"""Shots: where one camera take ends and the next begins. Cuts while decoding, gradual transitions afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError, DependencyError
from cogvideox.perception.flow import opencv


class Shots(Config):
    """How videos are cut into clips."""

    threshold: float = Field(
        3.0, gt=1, description="a frame differs so many times more than those around it: a cut"
    )
    least_change: float = Field(
        15.0, ge=0, description="grey levels by which the frames of a cut differ at least"
    )
    least_alike: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="colours of neighbouring frames that correlate less are a cut, however fast things move; -1: never",
    )
    dissolves: bool = Field(True, description="also cut at dissolves and fades, and leave them out")
    trim: int = Field(2, ge=0, description="frames left out on both sides of a cut")
    min_seconds: float = Field(2.0, gt=0, description="shorter pieces are dropped")
    max_seconds: float = Field(20.0, gt=0, description="longer takes become several clips")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Shots:
        if self.max_seconds < 2 * self.min_seconds:
            raise ConfigError(
                f"max_seconds {self.max_seconds:g} is below twice min_seconds {self.min_seconds:g}: a take a little "
                "longer than the one could not be halved into pieces of the other"
            )
        return self


class CutFinder:
    """Frames in, cuts out: PySceneDetect's AdaptiveDetector on tiny frames, two frames later; other colours, at once.

    Where all moves fast a cut does not stand out by how much changes, but the colours of a train that rushes by stay.
    """

    def __init__(self, settings: Shots) -> None:
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError:
            raise DependencyError("scenedetect is not installed; install cogvideox[data]") from None
        self._cv2, self._settings = opencv(), settings
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._detector = AdaptiveDetector(
            adaptive_threshold=settings.threshold, min_content_val=settings.least_change, min_scene_len=1
        )
        self._time = FrameTimecode
        self._count = 0

    def add(self, tiny: np.ndarray) -> list[int]:
        """The next frame ``uint8 [h, w, 3]``; returns the numbers of frames that are now known to begin a shot."""
        when = self._time(self._count, fps=25.0)  # the detector counts frames; their real times do not matter
        found = self._detector.process_frame(when, np.ascontiguousarray(tiny[:, :, ::-1]))
        cuts = [cut.frame_num for cut in found]
        if self._has_other_colours(tiny):
            cuts.append(self._count)
        self._count += 1
        return cuts

    def _has_other_colours(self, tiny: np.ndarray) -> bool:
        """Whether colours correlate less with those of the frame before than they must, and much has changed."""
        now = self._cv2.calcHist([_even(tiny)], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
        now -= now.mean()
        before, self._before = self._before, (tiny, now)
        if before is None or self._settings.least_alike <= -1:
            return False
        size = np.linalg.norm(before[1]) * np.linalg.norm(now)
        alike = before[1] @ now / size if size else 1.0
        changed = np.abs(tiny.astype(np.int16) - before[0]).mean()
        return bool(alike < self._settings.least_alike and changed >= self._settings.least_change)


def _even(tiny: np.ndarray) -> np.ndarray:
    """The frame at a brightness and contrast that are the same for all: fades and flashes change no colours then.

    One that is all but even, black or white, stays grey.
    """
    values = tiny.astype(np.float32)
    even = (values - values.mean()) * (48 / max(float(values.std()), 8.0)) + 128
    return np.clip(even, 0, 255).astype(np.uint8)


WINDOWS = (24, 14, 8, 4)  # half lengths of transitions in frames, tried from long to short
MIX_ERROR = 0.22  # the middle of a dissolve differs from the mean of its ends by at most this share
LEAST = 10.0  # grey levels between the ends of a transition
WIDE = 0.4  # share of the picture that changes: a thing that comes into view is no transition
CALM = 0.6  # before and after it the picture changes by at most this share of the transition


def transitions(grey: np.ndarray) -> list[tuple[int, int]]:
    """Dissolves and fades in tiny grey frames ``uint8 [t, h, w]``: (first, stop) of each, in order, apart.

    In a dissolve of two takes each frame is a mixture of its ends, so the one in the middle is their mean, and those at
    the quarters are mixtures too. Camera motion does not mix, and a slow change of light has no calm before and after.
    """
    frames = grey[:, ::2, ::2].astype(np.float32)
    found: list[tuple[int, int]] = []
    for half in WINDOWS:
        strength = _strength(frames, half)
        while len(strength) and strength.max() > 0:
            middle = int(strength.argmax())
            low, high = _whole(frames, middle, half)
            strength[max(0, middle - 2 * half) : middle + 2 * half + 1] = 0
            if not any(first < high and low < stop for first, stop in found):
                found.append((low, high))
    return sorted(found)


def _whole(frames: np.ndarray, middle: int, half: int) -> tuple[int, int]:
    """First and stop of a transition: outwards from its steady part, at most half as far again, while it goes on."""
    low, high = middle - half, middle + half
    pace = 0.5 * np.abs(frames[high] - frames[low]).mean() / (high - low)
    least, most = max(0, low - half), min(len(frames) - 1, high + half)
    while low > least and np.abs(frames[low] - frames[low - 1]).mean() > pace:
        low -= 1
    while high < most and np.abs(frames[high + 1] - frames[high]).mean() > pace:
        high += 1
    return low, high + 1


def _strength(frames: np.ndarray, half: int) -> np.ndarray:
    """For each frame as the middle of a transition, how far its ends are apart; 0 where it is none."""
    count = len(frames)
    strength = np.zeros(count, np.float32)
    for middle in range(half, count - half):
        before, after, mid = frames[middle - half], frames[middle + half], frames[middle]
        apart = float(np.abs(after - before).mean())
        if apart < LEAST or (np.abs(after - before) > LEAST / 2).mean() < WIDE:
            continue
        if np.abs(mid - 0.5 * (before + after)).mean() > MIX_ERROR * apart:
            continue
        quarter = half // 2
        for step in (-quarter, quarter):
            share = 0.5 + step / (2 * half)
            mixed = (1 - share) * before + share * after
            if np.abs(frames[middle + step] - mixed).mean() > MIX_ERROR * apart:
                break
        else:
            earlier, later = frames[max(0, middle - 2 * half)], frames[min(count - 1, middle + 2 * half)]
            calm = CALM * apart
            if np.abs(before - earlier).mean() < calm and np.abs(later - after).mean() < calm:
                strength[middle] = apart
    return strength


def takes(first: int, stop: int, gaps: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The pieces (first, stop) of a shot that lie between its transitions ``gaps``; numbers count within the shot."""
    begin = first
    for low, high in gaps:
        if low > begin:
            yield begin, low
        begin = max(begin, high)
    if stop > begin:
        yield begin, stop
