"""Faults that change a film: editing, stills, bad quality; and changes that are innocent.

See effects.py for what each takes and returns.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from cogvideox.perception.flow import opencv
from cogvideox.training.tasks.faults.drawing import Talker, colour, font, words
from cogvideox.training.tasks.faults.painting import fit, mixed, moved, painted, recoded, shape_of

# --- editing: done to the film after it was shot -----------------------------------------------------------------


def cut(frames, rng, other):
    at = int(rng.integers(len(frames) // 5, len(frames) * 4 // 5))
    return np.concatenate([frames[:at], other[at:]])


def dissolve(frames, rng, other):
    at, long = rng.uniform(0.25, 0.6) * len(frames), rng.uniform(3, 9)
    return mixed(frames, other, np.clip((np.arange(len(frames)) - at) / long, 0, 1))


def wipe(frames, rng, other):
    t, h, w = shape_of(frames)
    at, long = rng.uniform(0.2, 0.5) * t, rng.uniform(4, 10)
    edge = np.clip((np.arange(t) - at) / long, 0, 1)[:, None, None]
    axis = (
        np.broadcast_to(np.arange(w) / w, (h, w))
        if rng.random() < 0.6
        else np.broadcast_to((np.arange(h) / h)[:, None], (h, w))
    )
    return mixed(frames, other, (axis[None] < edge).astype(np.float32))


def inset(frames, rng, other):
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
    t, h, w = shape_of(frames)
    gap = int(rng.integers(0, 4))
    if rng.random() < 0.5:
        parts = [
            fit(frames[:, :, w // 4 : w // 4 + w // 2], h, w // 2),
            other[:, :, w // 4 : w // 4 + w - w // 2],
        ]
        out = np.concatenate(parts, axis=2)
        out[:, :, w // 2 - gap : w // 2 + gap] = 255
    else:
        out = np.concatenate(
            [frames[:, h // 4 : h // 4 + h // 2], other[:, h // 4 : h // 4 + h - h // 2]], axis=1
        )
        out[:, h // 2 - gap : h // 2 + gap] = 255
    return out


def stickers(frames, rng, other):
    t, h, w = shape_of(frames)
    marks = [
        (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), colour(rng, 60, 256))
        for _ in range(int(rng.integers(2, 6)))
    ]
    pulse, kind = rng.uniform(0.5, 2.5), int(rng.integers(3))

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        for place, (x, y, size, ink) in enumerate(marks):
            r = h * size * (1 + 0.25 * math.sin(n * pulse + place))
            cx, cy = x * w, y * h + 3 * math.sin(n * pulse)
            if kind == 0:
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=ink, outline=(255, 255, 255), width=2)
            elif kind == 1:
                points = [
                    (
                        cx + (r if k % 2 else r / 2.3) * math.cos(k * math.pi / 5 + n / 6),
                        cy + (r if k % 2 else r / 2.3) * math.sin(k * math.pi / 5 + n / 6),
                    )
                    for k in range(10)
                ]
                draw.polygon(points, fill=ink, outline=(255, 255, 255))
            else:
                draw.polygon(
                    [
                        (cx, cy - r),
                        (cx + r, cy),
                        (cx + r / 3, cy),
                        (cx + r / 3, cy + r),
                        (cx - r / 3, cy + r),
                        (cx - r / 3, cy),
                        (cx - r, cy),
                    ],
                    fill=ink,
                    outline=(255, 255, 255),
                )

    return painted(frames, paint)


def grade(frames, rng, other):
    at = int(rng.integers(len(frames) // 4, len(frames) * 3 // 4))
    matrix = np.eye(3) + rng.normal(0, 0.45, (3, 3))
    if rng.random() < 0.4:
        matrix = -np.eye(3)
    changed = (frames[at:] - 128.0) @ matrix * rng.uniform(0.8, 1.6) + 128 + rng.normal(0, 25, 3)
    return np.concatenate([frames[:at], changed.clip(0, 255).astype(np.uint8)])


def mirrored(frames, rng, other):
    half = frames[:, :, : frames.shape[2] // 2]
    rest = frames.shape[2] - half.shape[2]
    return np.concatenate([half, frames[:, :, :rest][:, :, ::-1]], axis=2)


def framed(frames, rng, other):
    t, h, w = shape_of(frames)
    margin = rng.uniform(0.12, 0.22)
    back = np.empty_like(frames)
    back[:] = colour(rng)
    if rng.random() < 0.5:
        cv2 = opencv()
        back = np.stack(
            [cv2.GaussianBlur(cv2.resize(f[h // 4 : -h // 4], (w, h)), (31, 31), 0) for f in frames]
        )
    inner = fit(frames, int(h * (1 - 2 * margin)), int(w * (1 - 2 * margin)))
    top, left = (h - inner.shape[1]) // 2, (w - inner.shape[2]) // 2
    back[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    for n in range(t):
        back[n, : 6 + n % 6 : 2, :: 1 + n % 3] = colour(rng)
    return back


# --- static: no continuous motion --------------------------------------------------------------------------------


def drifting_still(frames, rng, other):
    still, last = frames[int(rng.integers(len(frames)))], len(frames) - 1
    way, zoom = rng.normal(0, 14, 2), rng.uniform(0, 0.22) * rng.choice([-1, 1])
    return np.stack(
        [moved(still, way * (n / last - 0.5), 1.15 + zoom * (n / last - 0.5)) for n in range(len(frames))]
    )


def still(frames, rng, other):
    out = frames[int(rng.integers(len(frames)))][None].repeat(len(frames), 0)
    noise = rng.normal(0, rng.uniform(0, 1.5), out.shape)
    return (out + noise).clip(0, 255).astype(np.uint8)


def slideshow(frames, rng, other):
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
    every = int(rng.integers(5, 11))
    return frames[np.arange(len(frames)) // every * every]


def particles(frames, rng, other):
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
    cv2 = opencv()
    size = float(rng.uniform(2.2, 5.0))
    if rng.random() < 0.4:
        kernel = np.zeros((15, 15), np.float32)
        cv2.line(
            kernel,
            tuple(int(v) for v in rng.integers(0, 4, 2)),
            tuple(int(v) for v in rng.integers(11, 15, 2)),
            1,
        )
        return np.stack([cv2.filter2D(f, -1, kernel / kernel.sum()) for f in frames])
    return np.stack([cv2.GaussianBlur(f, (0, 0), size) for f in frames])


def noisy(frames, rng, other):
    sigma = rng.uniform(18, 50)
    noise = rng.normal(0, sigma, frames.shape[:3] + (1 if rng.random() < 0.4 else 3,))
    return (frames + noise).clip(0, 255).astype(np.uint8)


def squeezed(frames, rng, other):
    return recoded(frames, int(rng.integers(2, 9)))


def pixelated(frames, rng, other):
    cv2 = opencv()
    h, w = frames.shape[1:3]
    by = rng.uniform(4, 8)
    way = int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR]))
    small = (max(4, int(w / by)), max(4, int(h / by)))
    return np.stack(
        [
            cv2.resize(cv2.resize(f, small, interpolation=cv2.INTER_AREA), (w, h), interpolation=way)
            for f in frames
        ]
    )


def badly_lit(frames, rng, other):
    if rng.random() < 0.5:
        return (
            (frames * rng.uniform(0.03, 0.12) + rng.normal(0, 2, frames.shape)).clip(0, 255).astype(np.uint8)
        )
    return (frames * rng.uniform(1.5, 2.5) + rng.uniform(70, 130)).clip(0, 255).astype(np.uint8)


def shaken(frames, rng, other):
    by = rng.uniform(7, 16)
    moves = rng.normal(0, by, (len(frames), 2))
    return np.stack([moved(f, (x, y), 1.25) for f, (x, y) in zip(frames, moves, strict=True)])


def combed(frames, rng, other):
    out = frames.copy()
    lag = int(rng.integers(2, 6))
    out[:, 1::2] = np.roll(frames, lag, axis=2)[:, 1::2]
    return (out + rng.normal(0, 6, out.shape)).clip(0, 255).astype(np.uint8)


def broken_blocks(frames, rng, other):
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
    at = int(rng.integers(6, len(frames) - 4))
    push = np.exp(-((np.arange(len(frames)) - at) ** 2) / 2) * 30
    return np.stack(
        [moved(f, (float(x), 0), 1.3) for f, x in zip(frames, np.cumsum(push) - push.sum() / 2, strict=True)]
    )


def flash(frames, rng, other):
    out = frames.astype(np.float32)
    out[int(rng.integers(len(frames)))] += rng.uniform(50, 130)
    return out.clip(0, 255).astype(np.uint8)


def slow(frames, rng, other):
    return (
        frames[np.linspace(0, len(frames) // 3, len(frames)).astype(int)]
        if len(frames) < 8
        else _slowed(frames)
    )


def _slowed(frames: np.ndarray) -> np.ndarray:
    place = np.linspace(0, (len(frames) - 1) / 3, len(frames))
    low = np.floor(place).astype(int)
    part = (place - low)[:, None, None, None]
    return (frames[low] * (1 - part) + frames[np.minimum(low + 1, len(frames) - 1)] * part).astype(np.uint8)


def grainy(frames, rng, other):
    return (frames + rng.normal(0, rng.uniform(2, 6), frames.shape)).clip(0, 255).astype(np.uint8)


def dim(frames, rng, other):
    return (frames * rng.uniform(0.4, 0.8)).astype(np.uint8)


def small_sign(frames, rng, other):
    t, h, w = shape_of(frames)
    x, y, ink = w * rng.uniform(0.1, 0.6), h * rng.uniform(0.1, 0.8), colour(rng, 200, 256)
    text, way = words(rng, 1, "capitals"), rng.normal(0, 0.6, 2)

    def paint(image, n):
        ImageDraw.Draw(image).text((x + way[0] * n, y + way[1] * n), text, fill=ink, font=font(h // 12))

    return painted(frames, paint)


def panned(frames, rng, other):
    way = rng.normal(0, 2.0, 2)
    return np.stack([moved(f, way * (n - len(frames) / 2), 1.35) for n, f in enumerate(frames)])


def walker(frames, rng, other):
    t, h, w = shape_of(frames)
    who, start, speed = Talker(rng), w * rng.uniform(-0.1, 0.3), w * rng.uniform(0.02, 0.04)
    who.waves = True
    return painted(frames, lambda image, n: who.draw(image, n / 8, start + speed * n, h * 0.55, h * 0.14))
