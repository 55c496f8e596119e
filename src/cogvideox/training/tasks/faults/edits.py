"""Faults that change a video: editing, stills, bad quality; and changes that are innocent.

Each takes frames ``uint8 [t, h, w, 3]``, a random generator and ``other`` (another clip of that shape), and returns
frames of that shape.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from cogvideox.perception.flow import opencv
from cogvideox.training.tasks.faults.drawing import (
    Talker,
    colour,
    fit,
    font,
    mixed,
    moved,
    painted,
    recoded,
    shape_of,
    words,
)

# --- editing: done to the video after it was shot ----------------------------------------------------------------


def cut(frames, rng, other):
    """Cut to the other clip at a random frame."""
    at = int(rng.integers(len(frames) // 5, len(frames) * 4 // 5))
    return np.concatenate([frames[:at], other[at:]])


def dissolve(frames, rng, other):
    """Fade over to the other clip within a few frames."""
    at, long = rng.uniform(0.25, 0.6) * len(frames), rng.uniform(3, 9)
    return mixed(frames, other, np.clip((np.arange(len(frames)) - at) / long, 0, 1))


def wipe(frames, rng, other):
    """The other clip comes in behind an edge that moves across."""
    t, h, w = shape_of(frames)
    at, long = rng.uniform(0.2, 0.5) * t, rng.uniform(4, 10)
    edge = np.clip((np.arange(t) - at) / long, 0, 1)[:, None, None]
    across = np.arange(w) / w if rng.random() < 0.6 else (np.arange(h) / h)[:, None]
    return mixed(frames, other, (np.broadcast_to(across, (h, w)) < edge).astype(np.float32))


def inset(frames, rng, other):
    """The other clip, small and framed, in a corner (picture in picture)."""
    t, h, w = shape_of(frames)
    size = rng.uniform(0.25, 0.45)
    small = fit(other, int(h * size), int(w * size))
    top = int(rng.choice([4, h - small.shape[1] - 4]))
    left = int(rng.choice([4, w - small.shape[2] - 4]))
    out = frames.copy()
    out[:, top - 2 : top + small.shape[1] + 2, left - 2 : left + small.shape[2] + 2] = colour(rng)
    out[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return out


def split(frames, rng, other):
    """Both clips at once, side by side or one above the other."""
    t, h, w = shape_of(frames)
    gap = int(rng.integers(0, 4))
    if rng.random() < 0.5:
        left = fit(frames[:, :, w // 4 : w // 4 + w // 2], h, w // 2)
        out = np.concatenate([left, other[:, :, w // 4 : w // 4 + w - w // 2]], axis=2)
        out[:, :, w // 2 - gap : w // 2 + gap] = 255
    else:
        top, below = frames[:, h // 4 : h // 4 + h // 2], other[:, h // 4 : h // 4 + h - h // 2]
        out = np.concatenate([top, below], axis=1)
        out[:, h // 2 - gap : h // 2 + gap] = 255
    return out


def stickers(frames, rng, other):
    """Discs, stars or arrows that pulse on top of the clip."""
    t, h, w = shape_of(frames)
    ranges = (0.1, 0.9), (0.1, 0.9), (0.08, 0.2)  # x, y and size, as shares of the picture
    count = int(rng.integers(2, 6))
    marks = [(*(rng.uniform(*each) for each in ranges), colour(rng, 60, 256)) for _ in range(count)]
    pulse, kind = rng.uniform(0.5, 2.5), int(rng.integers(3))

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        for number, (x, y, size, ink) in enumerate(marks):
            r = h * size * (1 + 0.25 * math.sin(n * pulse + number))
            cx, cy = x * w, y * h + 3 * math.sin(n * pulse)
            if kind == 0:
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=ink, outline=(255, 255, 255), width=2)
            elif kind == 1:
                spokes = [(r if k % 2 else r / 2.3, k * math.pi / 5 + n / 6) for k in range(10)]
                points = [(cx + long * math.cos(turn), cy + long * math.sin(turn)) for long, turn in spokes]
                draw.polygon(points, fill=ink, outline=(255, 255, 255))
            else:
                arrow = ((0, -1), (1, 0), (1 / 3, 0), (1 / 3, 1), (-1 / 3, 1), (-1 / 3, 0), (-1, 0))
                corners = [(cx + r * right, cy + r * down) for right, down in arrow]
                draw.polygon(corners, fill=ink, outline=(255, 255, 255))

    return painted(frames, paint)


def grade(frames, rng, other):
    """Other colours from a random frame on, a negative among them."""
    at = int(rng.integers(len(frames) // 4, len(frames) * 3 // 4))
    matrix = np.eye(3) + rng.normal(0, 0.45, (3, 3))
    if rng.random() < 0.4:
        matrix = -np.eye(3)
    changed = (frames[at:] - 128.0) @ matrix * rng.uniform(0.8, 1.6) + 128 + rng.normal(0, 25, 3)
    return np.concatenate([frames[:at], changed.clip(0, 255).astype(np.uint8)])


def mirrored(frames, rng, other):
    """The right half shows the left one in a mirror."""
    half = frames[:, :, : frames.shape[2] // 2]
    rest = frames.shape[2] - half.shape[2]
    return np.concatenate([half, frames[:, :, :rest][:, :, ::-1]], axis=2)


def framed(frames, rng, other):
    """The clip small within a border, plain or a blurred copy, with flickering specks."""
    t, h, w = shape_of(frames)
    margin = rng.uniform(0.12, 0.22)
    back = np.empty_like(frames)
    back[:] = colour(rng)
    if rng.random() < 0.5:
        cv2 = opencv()
        middles = [cv2.resize(frame[h // 4 : -h // 4], (w, h)) for frame in frames]
        back = np.stack([cv2.GaussianBlur(middle, (31, 31), 0) for middle in middles])
    inner = fit(frames, int(h * (1 - 2 * margin)), int(w * (1 - 2 * margin)))
    top, left = (h - inner.shape[1]) // 2, (w - inner.shape[2]) // 2
    back[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    for n in range(t):
        back[n, : 6 + n % 6 : 2, :: 1 + n % 3] = colour(rng)
    return back


# --- static: no continuous motion --------------------------------------------------------------------------------


def drifting_still(frames, rng, other):
    """One frame that is slowly panned and zoomed."""
    still, last = frames[int(rng.integers(len(frames)))], len(frames) - 1
    way, zoom = rng.normal(0, 14, 2), rng.uniform(0, 0.22) * rng.choice([-1, 1])
    times = [n / last - 0.5 for n in range(len(frames))]
    return np.stack([moved(still, way * time, 1.15 + zoom * time) for time in times])


def still(frames, rng, other):
    """One frame repeated, with a little noise."""
    out = frames[int(rng.integers(len(frames)))][None].repeat(len(frames), 0)
    noise = rng.normal(0, rng.uniform(0, 1.5), out.shape)
    return (out + noise).clip(0, 255).astype(np.uint8)


def slideshow(frames, rng, other):
    """Two to five frames, shown one after the other."""
    count = int(rng.integers(2, 6))
    stock = [(frames if n % 2 else other)[int(rng.integers(len(frames)))] for n in range(count)]
    edges = np.linspace(0, len(frames), count + 1).astype(int)
    pan = rng.normal(0, 6, (count, 2)) * (rng.random() < 0.5)
    fade = rng.random() < 0.5
    out = []
    for n in range(len(frames)):
        place = int(np.searchsorted(edges, n, "right")) - 1
        part = (n - edges[place]) / max(1, edges[place + 1] - edges[place])
        frame = moved(stock[place], pan[place] * part, 1.08)
        if fade and part > 0.7 and place + 1 < count:
            share = (part - 0.7) / 0.3
            frame = (frame * (1 - share) + stock[place + 1] * share).astype(np.uint8)
        out.append(frame)
    return np.stack(out)


def stepping(frames, rng, other):
    """Every fifth to tenth frame, repeated until the next."""
    every = int(rng.integers(5, 11))
    return frames[np.arange(len(frames)) // every * every]


def particles(frames, rng, other):
    """One frame repeated under falling specks."""
    t, h, w = shape_of(frames)
    base = still(frames, rng, other)
    count = int(rng.integers(15, 60))
    place, speed = rng.uniform(0, 1, (count, 2)), rng.normal(0, 0.01, (count, 2)) + [0, 0.02]
    out = base.copy()
    for n in range(t):
        for x, y in (place + n * speed) % 1:
            out[n, int(y * h) : int(y * h) + 2, int(x * w) : int(x * w) + 2] = 245
    return out


# --- low quality -------------------------------------------------------------------------------------------------


def blurred(frames, rng, other):
    """Out of focus, or blurred in one direction."""
    cv2 = opencv()
    size = float(rng.uniform(2.2, 5.0))
    if rng.random() < 0.4:
        kernel = np.zeros((15, 15), np.float32)
        start, end = (tuple(int(v) for v in rng.integers(*ends, 2)) for ends in ((0, 4), (11, 15)))
        cv2.line(kernel, start, end, 1)
        return np.stack([cv2.filter2D(f, -1, kernel / kernel.sum()) for f in frames])
    return np.stack([cv2.GaussianBlur(f, (0, 0), size) for f in frames])


def noisy(frames, rng, other):
    """Strong sensor noise, grey or coloured."""
    sigma = rng.uniform(18, 50)
    noise = rng.normal(0, sigma, frames.shape[:3] + (1 if rng.random() < 0.4 else 3,))
    return (frames + noise).clip(0, 255).astype(np.uint8)


def squeezed(frames, rng, other):
    """JPEG at a very low quality."""
    return recoded(frames, int(rng.integers(2, 9)))


def pixelated(frames, rng, other):
    """Scaled down four to eight times and up again."""
    cv2 = opencv()
    h, w = frames.shape[1:3]
    by = rng.uniform(4, 8)
    way = int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR]))
    small = (max(4, int(w / by)), max(4, int(h / by)))
    shrunk = [cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack([cv2.resize(frame, (w, h), interpolation=way) for frame in shrunk])


def badly_lit(frames, rng, other):
    """Almost black, or washed out to white."""
    if rng.random() < 0.5:
        dark = frames * rng.uniform(0.03, 0.12) + rng.normal(0, 2, frames.shape)
        return dark.clip(0, 255).astype(np.uint8)
    return (frames * rng.uniform(1.5, 2.5) + rng.uniform(70, 130)).clip(0, 255).astype(np.uint8)


def shaken(frames, rng, other):
    """Every frame moved by a large random step."""
    by = rng.uniform(7, 16)
    moves = rng.normal(0, by, (len(frames), 2))
    return np.stack([moved(f, (x, y), 1.25) for f, (x, y) in zip(frames, moves, strict=True)])


def combed(frames, rng, other):
    """Odd lines lag behind, as interlaced video does."""
    out = frames.copy()
    lag = int(rng.integers(2, 6))
    out[:, 1::2] = np.roll(frames, lag, axis=2)[:, 1::2]
    return (out + rng.normal(0, 6, out.shape)).clip(0, 255).astype(np.uint8)


def broken_blocks(frames, rng, other):
    """Blocks of pixels copied to wrong positions, as after lost packets."""
    out = frames.copy()
    for n in range(len(out)):
        for _ in range(int(rng.integers(8, 30))):
            y, x = (int(v) // 8 * 8 for v in rng.integers(0, out.shape[1:3]))
            dy, dx = (int(v) // 8 * 8 for v in rng.integers(0, np.array(out.shape[1:3]) - 24))
            part = out[n, dy : dy + 8, dx : dx + 24]
            target = out[n, y : y + 8, x : x + 24]
            target[:] = part[: target.shape[0], : target.shape[1]]
    return out


# --- innocent: only looks as if ----------------------------------------------------------------------------------


def whip(frames, rng, other):
    """A fast pan (whip pan) without a cut."""
    at = int(rng.integers(6, len(frames) - 4))
    push = np.exp(-((np.arange(len(frames)) - at) ** 2) / 2) * 30
    shifts = np.cumsum(push) - push.sum() / 2
    return np.stack([moved(f, (float(x), 0), 1.3) for f, x in zip(frames, shifts, strict=True)])


def flash(frames, rng, other):
    """One frame is suddenly brighter."""
    out = frames.astype(np.float32)
    out[int(rng.integers(len(frames)))] += rng.uniform(50, 130)
    return out.clip(0, 255).astype(np.uint8)


def slow(frames, rng, other):
    """Slow motion at a third of the speed."""
    if len(frames) < 8:
        return frames[np.linspace(0, len(frames) // 3, len(frames)).astype(int)]
    place = np.linspace(0, (len(frames) - 1) / 3, len(frames))
    low = np.floor(place).astype(int)
    part = (place - low)[:, None, None, None]
    return (frames[low] * (1 - part) + frames[np.minimum(low + 1, len(frames) - 1)] * part).astype(np.uint8)


def grainy(frames, rng, other):
    """A little grain, as of film."""
    return (frames + rng.normal(0, rng.uniform(2, 6), frames.shape)).clip(0, 255).astype(np.uint8)


def dim(frames, rng, other):
    """Evening light: darker, but not too dark."""
    return (frames * rng.uniform(0.4, 0.8)).astype(np.uint8)


def small_sign(frames, rng, other):
    """One small word that drifts in the scene."""
    t, h, w = shape_of(frames)
    x, y, ink = w * rng.uniform(0.1, 0.6), h * rng.uniform(0.1, 0.8), colour(rng, 200, 256)
    text, way = words(rng, 1, "capitals"), rng.normal(0, 0.6, 2)

    def paint(image, n):
        ImageDraw.Draw(image).text((x + way[0] * n, y + way[1] * n), text, fill=ink, font=font(h // 12))

    return painted(frames, paint)


def panned(frames, rng, other):
    """The camera pans slowly and evenly."""
    way = rng.normal(0, 2.0, 2)
    return np.stack([moved(f, way * (n - len(frames) / 2), 1.35) for n, f in enumerate(frames)])


def walker(frames, rng, other):
    """A small person who walks through the scene."""
    t, h, w = shape_of(frames)
    who, start, speed = Talker(rng), w * rng.uniform(-0.1, 0.3), w * rng.uniform(0.02, 0.04)
    who.waves = True
    return painted(frames, lambda image, n: who.draw(image, n / 8, start + speed * n, h * 0.55, h * 0.14))
