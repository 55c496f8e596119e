"""Motion of videos: dynamic degree, DEVIL's Dynamic Quality, and two faults: frozen clips, a jump of brightness.

Dynamic Quality (Liao et al. 2024; Table 3) is DEVIL's rule alone: quality averaged over equal bins of dynamics, an
empty bin counting 0. Its fitted regressors are not published in a form that could be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cogvideox.errors import DependencyError, InputError
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.evaluation.vbench import frames_at_8_fps, moves
from cogvideox.video import Video

BINS = 12
SHORT = 256  # pixels of the short side, at most, at which Farneback's flow is computed
FROZEN = 6.0  # grey levels of 255: a codec changes a still picture by less
BUSIEST = 0.005  # of the pixels: few change where a small thing rotates slowly
JUMP = 8.0  # grey levels by which the first frame's brightness may differ from the next ones'
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # scale, levels, window, iterations, neighbours, sigma, flags


def dynamic_degree_classical(videos: Iterable[Video]) -> Score:
    """VBench's rule with Farneback's flow for RAFT's: another number under another name.

    Farneback underestimates large motion, so compare only with itself. Needs OpenCV.
    """
    name, protocol = (
        "dynamic_degree_classical",
        "VBench's rule, Farneback flow at a short side of at most 256, about 8 fps",
    )
    try:
        each = [_moves_classically(video) for video in videos]
    except DependencyError as error:
        return not_computed(name, str(error), protocol=protocol)
    return mean_score(name, each, binary=True, protocol=protocol)


def _moves_classically(video: Video) -> float:
    frames = frames_at_8_fps(video)
    if len(frames) < 2:
        return float("nan")
    grey = _grey(frames, min(SHORT, video.height, video.width))
    return float(moves(top_flow(grey), len(frames), min(grey.shape[1:]), video.fps))


def top_flow(grey: np.ndarray, fraction: float = 0.05) -> list[float]:
    """Mean of the largest ``fraction`` of Farneback's flow, in pixels, for each pair of frames ``uint8 [t, h, w]``.

    Raises DependencyError.
    """
    try:
        import cv2
    except ImportError:
        raise DependencyError("needs OpenCV; install cogvideox[eval]") from None
    farneback: Any = (
        cv2.calcOpticalFlowFarneback
    )  # OpenCV's stub does not know that the flow given may be None
    magnitudes = []
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        speed = np.linalg.norm(farneback(before, after, None, *FARNEBACK), axis=2).ravel()
        most = max(1, int(len(speed) * fraction))
        magnitudes.append(float(np.partition(speed, -most)[-most:].mean()))
    return magnitudes


def _grey(frames: np.ndarray, short: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = short / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    images = (Image.fromarray(frame).convert("L").resize(size, Image.Resampling.BILINEAR) for frame in frames)
    return np.stack([np.asarray(image) for image in images])


def frozen_share(videos: Iterable[Video]) -> Score:
    """Share of videos in which nothing moves: see ``is_frozen``."""
    each = [is_frozen(video.frames) for video in videos]
    protocol = f"in every pair of frames the busiest {100 * BUSIEST:g} % of pixels change by at most {FROZEN:g} of 255"
    return mean_score("frozen_share", each, binary=True, better="lower", protocol=protocol)


def is_frozen(frames: np.ndarray) -> float:
    """1 where the busiest half percent of pixels changes by at most 6 grey levels in every pair, else 0.

    NaN for a single frame.
    """
    if len(frames) < 2:
        return float("nan")
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return float(all(_busiest(b, a) <= FROZEN for b, a in pairs))


def _busiest(after: np.ndarray, before: np.ndarray) -> float:
    change = np.abs(after.astype(np.int16) - before).max(2).ravel()
    most = max(1, int(len(change) * BUSIEST))
    return float(np.partition(change, -most)[-most:].mean())


def first_frame_jump(videos: Iterable[Video]) -> Score:
    """Share of videos whose first frame is brighter or darker than the next four by more than 8 grey levels.

    A known fault of causal autoencoders, whose first frame is coded by other statistics than the rest.
    """
    each = [
        float(abs(brightness_jump(video.frames)) > JUMP) if len(video) > 1 else float("nan")
        for video in videos
    ]
    protocol = f"|mean of frame 0 - mean of frames 1 to 4| > {JUMP:g} of 255"
    return mean_score("first_frame_jump_share", each, binary=True, better="lower", protocol=protocol)


def brightness_jump(frames: np.ndarray) -> float:
    """Mean brightness of the first frame minus that of the next four, beyond the drift those show themselves."""
    levels = frames[:6].mean((1, 2, 3))
    drift = float(np.diff(levels[1:]).mean()) if len(levels) > 2 else 0.0
    return float(levels[0] - levels[1]) + drift


def dynamics_binned_quality(
    dynamics: Sequence[float], quality: Sequence[float], bins: int = BINS, empty: float = 0.0
) -> float:
    """DEVIL's rule: the mean over equal bins of [0, 1] of each bin's mean quality; an empty bin counts ``empty``.

    A dynamics of exactly 1 belongs to the last bin (the original code leaves it out). Raises InputError.
    """
    scores, values = np.asarray(dynamics, float), np.asarray(quality, float)
    if scores.shape != values.shape or scores.ndim != 1:
        raise InputError(f"dynamics {scores.shape}, quality {values.shape}: one number each per video")
    if len(scores) and not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise InputError(f"dynamics {scores.min():g} to {scores.max():g}: must lie in 0 to 1")
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    means = [values[bin_of == b].mean() if (bin_of == b).any() else empty for b in range(bins)]
    return float(np.mean(means))


def dynamic_quality(dynamics: Sequence[float] | None, qualities: dict[str, Sequence[float]]) -> Score:
    """The mean of the binned quality over DEVIL's keys (smoothness, naturalness, subject, background).

    ``dynamics``, and each of ``qualities``: one value per video, by DEVIL's networks; not computed without.
    """
    name, protocol = (
        "devil_dynamic_quality",
        f"mean over keys of the mean over {BINS} bins, an empty bin counts 0",
    )
    if dynamics is None or not qualities:
        why = "needs DEVIL's dynamics and quality scores per video (--devil FILE)"
        return not_computed(name, why, protocol=protocol)
    scores = np.asarray(dynamics, float)

    def value(videos: np.ndarray) -> float:
        keys = (np.asarray(each, float)[videos] for each in qualities.values())
        return float(np.mean([dynamics_binned_quality(scores[videos], each) for each in keys]))

    rng = np.random.default_rng(0)
    draws = [value(rng.integers(0, len(scores), len(scores))) for _ in range(500)]
    low, high = (float(each) for each in np.percentile(draws, [2.5, 97.5]))
    settings = {"keys": list(qualities)}
    whole = value(np.arange(len(scores)))
    return Score(name, whole, low, high, len(scores), protocol=protocol, settings=settings)
