"""Frames -> coloured things: what stands out from the grey ground, in connected pieces, with soft edges.

The chroma of a pixel is its colour minus its grey value. The ground has none, so its norm is a soft mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cogvideox.world.style import COLOURS

NOISE_GATE = 3.0  # grey levels; above it the chroma is smoothed before anything is measured
_LEAST_CHROMA = 40.0
_LEAST_AREA = 0.005  # of the frame
_COLOUR_NAMES = tuple(COLOURS)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


_RGB = np.array(list(COLOURS.values()), np.float32)
FULL_CHROMA = np.linalg.norm(_RGB - _RGB.mean(-1, keepdims=True), axis=-1)
"""The norm of the chroma of each colour, in grey levels."""
PALETTE = _unit(_RGB - _RGB.mean(-1, keepdims=True))
"""The direction of the chroma of each colour, ``[colours, 3]``."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One connected piece of one frame. Centre (x, y) in pixels; ``mass`` is its area with soft edges, in pixels.

    In the rich style ``accent`` is the second colour of a thing that has two, and things of different colours that
    touch are things of their own (``touching``), never whole.
    """

    frame: int
    label: int
    centre: tuple[float, float]
    mass: float
    colour: str
    colour_match: float
    whole: bool
    accent: str | None = None
    touching: bool = False


@dataclass(frozen=True)
class Foreground:
    """The things of a clip, and the soft mask they were read from.

    ``alpha`` float32 ``[t, h, w]`` is 1 inside and 0 outside; ``labels`` int ``[t, h, w]`` says which thing a
    pixel (or the rim of two pixels around it) belongs to, 0 for none.
    """

    alpha: np.ndarray
    labels: np.ndarray
    things: tuple[Thing, ...]

    def of(self, frame: int) -> list[Thing]:
        """The things seen in one frame."""
        return [thing for thing in self.things if thing.frame == frame]


def chroma_of(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chroma ``[t, h, w, 3]`` of uint8 frames, smoothed where they are noisy, its norm, and where that is foreground
    (``[t, h, w]``)."""
    chroma = frames.astype(np.float32)
    chroma -= chroma.mean(-1, keepdims=True)
    if noise_level(chroma[:: max(1, len(chroma) // 4)]) > NOISE_GATE:
        chroma = smooth(chroma)
    strength = np.sqrt(np.einsum("thwc,thwc->thw", chroma, chroma))
    return chroma, strength, strength > _thresholds(strength)[:, None, None]


def find_things(frames: np.ndarray) -> Foreground:
    """Segment uint8 frames ``[t, h, w, 3]`` of the plain style."""
    chroma, strength, mask = chroma_of(frames)
    return measure_pieces(chroma, strength, drop_small(label_pieces(mask)))


def noise_level(images: np.ndarray) -> float:
    """Standard deviation of the pixel noise in images ``[n, h, w, c]`` (Immerkaer's mask, median instead of mean)."""
    rows = images[:, :-2] - 2 * images[:, 1:-1] + images[:, 2:]
    response = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return float(np.median(np.abs(response)) / (6 * 0.6745))


def smooth(images: np.ndarray) -> np.ndarray:
    """Average each pixel of ``[n, h, w, ...]`` with its neighbours, weights 1 2 1 along both sides."""
    for axis in (1, 2):
        low = np.take(images, [0, *range(images.shape[axis] - 1)], axis)
        high = np.take(images, [*range(1, images.shape[axis]), images.shape[axis] - 1], axis)
        images = 0.25 * (low + high) + 0.5 * images
    return images


def label_pieces(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected pieces of each frame of a mask ``[t, h, w]``; 0 is outside, no number is used twice."""
    t, h, w = mask.shape
    tall = np.zeros((t * (h + 1), w + 2), bool)  # an empty line below each frame keeps the frames apart
    tall.reshape(t, h + 1, w + 2)[:, :h, 1:-1] = mask
    flat = tall.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    line, start = np.divmod(edges[0::2], w + 2)
    stop = edges[1::2] - line * (w + 2)
    parent = _join_runs(line.tolist(), start.tolist(), stop.tolist())
    number = np.zeros(flat.shape, np.int64)
    number[edges[0::2]] = 1
    runs = np.cumsum(number) * flat
    roots = np.array([0, *(1 + root for root in parent)])
    return roots[runs].reshape(t, h + 1, w + 2)[:, :h, 1:-1]


def _join_runs(line: list[int], start: list[int], stop: list[int]) -> list[int]:
    """The first run of each run's piece, for horizontal runs in reading order."""
    parent = list(range(len(line)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0
    for run in range(len(line)):
        while line[above] < line[run] - 1 or (line[above] == line[run] - 1 and stop[above] < start[run]):
            above += 1
        other = above
        while line[other] == line[run] - 1 and start[other] <= stop[run]:
            first, second = sorted((root(other), root(run)))
            parent[second] = first
            other += 1
    return [root(run) for run in range(len(line))]


def _thresholds(strength: np.ndarray) -> np.ndarray:
    """Half-way up the edge of each frame's typical foreground, at least 40 grey levels; ``[t]``."""
    levels = []
    for frame in strength:
        seen = frame[frame > _LEAST_CHROMA]
        levels.append(max(_LEAST_CHROMA, 0.45 * float(np.percentile(seen, 75)) if seen.size else 0.0))
    return np.array(levels, np.float32)


def drop_small(labels: np.ndarray) -> np.ndarray:
    """Forget pieces of less than 0.5 % of a frame ``[t, h, w]`` and number the others 1, 2, ..."""
    least = int(_LEAST_AREA * labels[0].size)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept = areas >= max(least, 1)
    return (np.cumsum(kept) * kept)[labels]


def measure_pieces(chroma: np.ndarray, strength: np.ndarray, labels: np.ndarray) -> Foreground:
    """Soft mask, place, size and colour of each numbered piece."""
    count = int(labels.max())
    inside = [strength[labels == number] for number in range(1, count + 1)]
    level = np.array([1.0, *(float(np.percentile(values, 75)) for values in inside)], np.float32)
    wide = _grow(_grow(labels))
    alpha = np.minimum(strength / level[wide], 1.0) * (wide > 0)
    flat = wide.ravel()
    weight = alpha.ravel()
    t, h, w = labels.shape
    mass = np.maximum(np.bincount(flat, weight, count + 1), 1e-6)
    y, x = np.divmod(np.arange(h * w), w)
    centre_x = np.bincount(flat, weight * np.tile(x, t), count + 1) / mass
    centre_y = np.bincount(flat, weight * np.tile(y, t), count + 1) / mass
    core = weight * (weight > 0.75)
    hue = np.stack([np.bincount(flat, core * chroma[..., c].ravel(), count + 1) for c in range(3)], -1)
    match = _unit(hue) @ PALETTE.T
    frame_of = np.zeros(count + 1, int)
    frame_of[labels] = np.arange(t)[:, None, None]
    cut = set(np.concatenate([labels[:, [0, -1]].ravel(), labels[:, :, [0, -1]].ravel()]).tolist())
    things = tuple(
        Thing(
            frame=int(frame_of[n]),
            label=n,
            centre=(float(centre_x[n]), float(centre_y[n])),
            mass=float(mass[n]),
            colour=_COLOUR_NAMES[int(match[n].argmax())],
            colour_match=float(match[n].max()),
            whole=n not in cut,
        )
        for n in range(1, count + 1)
    )
    return Foreground(alpha, wide, things)


def _grow(labels: np.ndarray) -> np.ndarray:
    """Give each unnumbered pixel beside a piece the number of that piece."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
    around = [padded[:, 1:-1, :-2], padded[:, 1:-1, 2:], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]]
    return np.where(labels > 0, labels, np.maximum.reduce(around))
