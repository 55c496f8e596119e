"""How far did things and the camera move? Tracks of pieces, and masked correlation of the ground."""

from __future__ import annotations

import numpy as np

from cogvideox.world.foreground import Foreground, smooth

_LAG = 4  # frames between the two views that are compared, at least
_SEARCH = 0.2  # of the side: the largest camera movement over one lag
_FLAT = 1.5  # grey levels; a ground with less contrast cannot show a camera movement
_BETTER = 0.85  # a movement must leave at most this share of what differs if the ground rests; else it rests
_LOST = 0.25  # of the side: a thing cannot jump further between two frames


def object_travel(foreground: Foreground) -> tuple[float, float]:
    """How far (x, y) the things moved from the first to the last frame, in pixels: the median over tracks.

    Measured between the second and the second-last frame, which are steadier than the ends, and extended to
    the whole.
    """
    t, h, _ = foreground.alpha.shape
    first, last = (1, t - 2) if t > 4 else (0, t - 1)
    starts = [np.array(thing.centre) for thing in foreground.of(first)]
    places = list(starts)
    for frame in range(first + 1, last + 1):
        seen = np.array([thing.centre for thing in foreground.of(frame)])
        if not len(seen):
            continue
        for number, place in enumerate(places):
            distance = np.linalg.norm(seen - place, axis=1)
            if distance.min() < _LOST * h:
                places[number] = seen[distance.argmin()]
    if not starts or last == first:
        return 0.0, 0.0
    moved = np.median(np.array(places) - np.array(starts), axis=0) * (t - 1) / (last - first)
    return float(moved[0]), float(moved[1])


def camera_travel(
    frames: np.ndarray, foreground: Foreground, views: int | None = None
) -> tuple[float, float]:
    """How far (x, y) the camera moved over the clip, in pixels; the ground moves the other way.

    ``views``: the clip is compared in so many steps, if they are longer than four frames; None: in steps of four.

    Pairs of frames a few apart are compared by correlation under masks (Padfield 2012), so that things in the
    foreground have no say; the median pair stands for the whole clip. A flat ground, and one that a
    movement explains hardly better than rest, give 0.
    """
    t, h, w, _ = frames.shape
    lag = min(max(_LAG, (t - 1) // views if views else 0), t - 1)
    if lag < 1:
        return 0.0, 0.0
    picked = np.arange(0, t - lag, lag)
    chosen = np.concatenate([picked, picked[-1:] + lag])
    grey = smooth(smooth(smooth(frames[chosen].astype(np.float32).mean(-1))))
    free = _away_from_things(foreground.labels[chosen])
    if free.sum(axis=(1, 2)).min() < 0.2 * h * w:
        return 0.0, 0.0
    means = (grey * free).sum(axis=(1, 2)) / free.sum(axis=(1, 2))
    grey = (grey - means[:, None, None]) * free
    if np.sqrt((grey**2).sum() / free.sum()) < _FLAT:
        return 0.0, 0.0
    search = int(_SEARCH * h)
    match = _match(grey, free, search)
    gain = (1 - match.max(axis=(1, 2)) + 1e-6) / (1 - match[:, search, search] + 1e-6)
    if np.median(gain) > _BETTER:
        return 0.0, 0.0
    x, y = (search - np.median([_peak(one) for one in match], axis=0)) * (t - 1) / lag
    return float(x), float(y)


def _away_from_things(labels: np.ndarray) -> np.ndarray:
    """1 where no thing is within four pixels (two of them are the rim that labels already have)."""
    covered = np.pad(labels > 0, ((0, 0), (2, 2), (2, 2)))
    for axis in (1, 2):
        covered = np.logical_or.reduce([np.roll(covered, step, axis) for step in (-2, -1, 0, 1, 2)])
    return (~covered[:, 2:-2, 2:-2]).astype(np.float32)


def _match(grey: np.ndarray, free: np.ndarray, search: int) -> np.ndarray:
    """Correlation of neighbours of the masked images ``[n + 1, h, w]`` for shifts up to ``search`` pixels.

    ``[n, 2 search + 1, 2 search + 1]``, rows are shifts down, columns to the right; the middle is no shift.
    """
    side = 16 * int(np.ceil((max(grey.shape[1:]) + search) / 16))
    size = (side, side)
    image, mask, square = (np.fft.rfft2(a, size) for a in (grey, free, grey**2))

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        full = np.fft.irfft2(np.conj(first[:-1]) * second[1:], size)
        near = np.roll(full, (search, search), axis=(1, 2))
        return near[:, : 2 * search + 1, : 2 * search + 1]

    overlap = np.maximum(correlate(mask, mask), 1.0)
    sum_first, sum_second = correlate(image, mask), correlate(mask, image)
    spread = (correlate(square, mask) - sum_first**2 / overlap) * (
        correlate(mask, square) - sum_second**2 / overlap
    )
    joint = correlate(image, image) - sum_first * sum_second / overlap
    return np.where(overlap > 0.15 * grey[0].size, joint / np.sqrt(np.maximum(spread, 1e-3)), -1.0)


def _peak(match: np.ndarray) -> np.ndarray:
    """The (x, y) of the highest value, refined by a parabola along each side."""
    row, column = np.unravel_index(int(match.argmax()), match.shape)
    return np.array([_vertex(match[row], int(column)), _vertex(match[:, column], int(row))])


def _vertex(line: np.ndarray, top: int) -> float:
    if top in (0, len(line) - 1):
        return float(top)
    low, mid, high = line[top - 1 : top + 2]
    bend = low - 2 * mid + high
    return float(top + (0.5 * (low - high) / bend if bend < 0 else 0.0))
