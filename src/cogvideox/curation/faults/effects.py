"""One function per way a clip can have a fault, and per way it can only look as if.

Each takes frames ``uint8 [t, h, w, 3]``, a random generator and ``other`` (another clip of the same shape), and returns
frames of the same shape. ``FAULTS`` names those that give a label, ``INNOCENT`` those that must not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from cogvideox.curation.faults.drawing import Talker, colour, font, lines, pair, screen, slide, words
from cogvideox.perception.flow import opencv

Effect = Callable[[np.ndarray, np.random.Generator, np.ndarray], np.ndarray]


def _shape(frames: np.ndarray) -> tuple[int, int, int]:
    return frames.shape[0], frames.shape[1], frames.shape[2]


def _each(frames: np.ndarray, paint: Callable[[Image.Image, int], None]) -> np.ndarray:
    """Every frame painted upon."""
    done = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        paint(image, number)
        done.append(np.asarray(image))
    return np.stack(done)


def _mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """``share`` [t] or [t, h, w] of the second clip."""
    share = share.reshape(share.shape + (1,) * (4 - share.ndim)).astype(np.float32)
    return (first * (1 - share) + second * share + 0.5).astype(np.uint8)


def _fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = opencv()
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


# --- editing: done to the film after it was shot -----------------------------------------------------------------


def cut(frames, rng, other):
    at = int(rng.integers(len(frames) // 5, len(frames) * 4 // 5))
    return np.concatenate([frames[:at], other[at:]])


def dissolve(frames, rng, other):
    at, long = rng.uniform(0.25, 0.6) * len(frames), rng.uniform(3, 9)
    return _mixed(frames, other, np.clip((np.arange(len(frames)) - at) / long, 0, 1))


def wipe(frames, rng, other):
    t, h, w = _shape(frames)
    at, long = rng.uniform(0.2, 0.5) * t, rng.uniform(4, 10)
    edge = np.clip((np.arange(t) - at) / long, 0, 1)[:, None, None]
    axis = (
        np.broadcast_to(np.arange(w) / w, (h, w))
        if rng.random() < 0.6
        else np.broadcast_to((np.arange(h) / h)[:, None], (h, w))
    )
    return _mixed(frames, other, (axis[None] < edge).astype(np.float32))


def inset(frames, rng, other):
    t, h, w = _shape(frames)
    size = rng.uniform(0.25, 0.45)
    small = _fit(other, int(h * size), int(w * size))
    top = int(rng.choice([4, h - small.shape[1] - 4]))
    left = int(rng.choice([4, w - small.shape[2] - 4]))
    out = frames.copy()
    out[:, top - 2 : top + small.shape[1] + 2, left - 2 : left + small.shape[2] + 2] = colour(rng)
    out[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return out


def split(frames, rng, other):
    t, h, w = _shape(frames)
    gap = int(rng.integers(0, 4))
    if rng.random() < 0.5:
        parts = [
            _fit(frames[:, :, w // 4 : w // 4 + w // 2], h, w // 2),
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
    t, h, w = _shape(frames)
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

    return _each(frames, paint)


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
    t, h, w = _shape(frames)
    margin = rng.uniform(0.12, 0.22)
    back = np.empty_like(frames)
    back[:] = colour(rng)
    if rng.random() < 0.5:
        cv2 = opencv()
        back = np.stack(
            [cv2.GaussianBlur(cv2.resize(f[h // 4 : -h // 4], (w, h)), (31, 31), 0) for f in frames]
        )
    inner = _fit(frames, int(h * (1 - 2 * margin)), int(w * (1 - 2 * margin)))
    top, left = (h - inner.shape[1]) // 2, (w - inner.shape[2]) // 2
    back[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    for n in range(t):
        back[n, : 6 + n % 6 : 2, :: 1 + n % 3] = colour(rng)
    return back


# --- static: no continuous motion --------------------------------------------------------------------------------


def _window(frame: np.ndarray, x: float, y: float, zoom: float) -> np.ndarray:
    cv2 = opencv()
    h, w = frame.shape[:2]
    matrix = np.array([[zoom, 0, (1 - zoom) * w / 2 + x], [0, zoom, (1 - zoom) * h / 2 + y]], np.float32)
    return cv2.warpAffine(frame, matrix, (w, h), borderMode=cv2.BORDER_REFLECT)


def drifting_still(frames, rng, other):
    still, last = frames[int(rng.integers(len(frames)))], len(frames) - 1
    way, zoom = rng.normal(0, 14, 2), rng.uniform(0, 0.22) * rng.choice([-1, 1])
    return np.stack(
        [
            _window(still, *(way * (n / last - 0.5)), 1.15 + zoom * (n / last - 0.5))
            for n in range(len(frames))
        ]
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
        frame = _window(stock[place], *(pan[place] * part), 1.08)
        if fade and part > 0.7 and place + 1 < count:
            share = (part - 0.7) / 0.3
            frame = (frame * (1 - share) + stock[place + 1] * share).astype(np.uint8)
        out.append(frame)
    return np.stack(out)


def stepping(frames, rng, other):
    every = int(rng.integers(5, 11))
    return frames[np.arange(len(frames)) // every * every]


def particles(frames, rng, other):
    t, h, w = _shape(frames)
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
    return np.stack([_window(f, x, y, 1.25) for f, (x, y) in zip(frames, moves, strict=True)])


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


# --- lecture: somebody talks -------------------------------------------------------------------------------------


def _room(frames, rng, other) -> np.ndarray:
    """A background that rests: a blurred still, or a wall."""
    cv2 = opencv()
    if rng.random() < 0.5:
        return cv2.GaussianBlur(other[0], (0, 0), float(rng.uniform(0.5, 6)))
    wall = np.empty_like(frames[0])
    wall[:] = colour(rng, 30, 230)
    return (wall * np.linspace(rng.uniform(0.7, 1), 1, wall.shape[1])[None, :, None]).astype(np.uint8)


def talking_head(frames, rng, other):
    t, h, w = _shape(frames)
    who, room = Talker(rng), _room(frames, rng, other)
    x, y, unit = w * rng.uniform(0.35, 0.65), h * rng.uniform(0.32, 0.48), h * rng.uniform(0.3, 0.5)
    return _each(room[None].repeat(t, 0), lambda image, n: who.draw(image, n / 8, x, y, unit))


def slide_and_speaker(frames, rng, other):
    t, h, w = _shape(frames)
    pages = [np.asarray(slide(rng, h, w)) for _ in range(int(rng.integers(1, 3)))]
    who, corner = Talker(rng), rng.random() < 0.7
    x = w * float(rng.choice([0.13, 0.87]))
    base = np.stack([pages[n * len(pages) // t] for n in range(t)])

    def paint(image, n):
        if corner:
            half = int(h * 0.16)
            ImageDraw.Draw(image).rectangle((x - half, h - 2 * half, x + half, h), fill=(60, 70, 80))
        who.draw(image, n / 8, x, h * 0.78, h * 0.22)

    return _each(base, paint)


def whiteboard(frames, rng, other):
    t, h, w = _shape(frames)
    board = np.empty_like(frames)
    board[:] = colour(rng, 215, 250) if rng.random() < 0.7 else colour(rng, 10, 60)
    ink, points = (
        colour(rng, 0, 120),
        [(w * rng.uniform(0.1, 0.9), h * rng.uniform(0.1, 0.8)) for _ in range(3)],
    )
    who = Talker(rng)
    strokes = [
        (x, y)
        for px, py in points
        for x, y in zip(px + np.cumsum(rng.normal(2, 4, t)), py + np.cumsum(rng.normal(0, 4, t)), strict=True)
    ]

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        seen = strokes[: 3 + len(strokes) * n // t]
        draw.line(seen, fill=ink if board[0, 0, 0, 0] > 128 else (240, 240, 240), width=2)
        who.draw(image, n / 8, w * 0.85, h * 0.5, h * 0.26)

    return _each(board, paint)


def two_talkers(frames, rng, other):
    t, h, w = _shape(frames)
    room, pair_ = _room(frames, rng, other), (Talker(rng), Talker(rng))
    y, unit = h * rng.uniform(0.38, 0.5), h * rng.uniform(0.22, 0.36)

    def paint(image, n):
        pair_[0].draw(image, n / 8, w * 0.27, y, unit)
        pair_[1].draw(image, n / 8 + 2, w * 0.73, y, unit)

    return _each(room[None].repeat(t, 0), paint)


# --- text dominated ----------------------------------------------------------------------------------------------


def paragraphs(frames, rng, other):
    t, h, w = _shape(frames)
    ink, paper = pair(rng)
    page = Image.new("RGB", (w, h), paper)
    draw = ImageDraw.Draw(page)
    lines(draw, rng, (w // 12, h // 10, w - w // 12, h - h // 12), int(rng.integers(8, 20)), ink)
    card = np.asarray(page)
    if rng.random() < 0.5:
        mask = np.abs(card.astype(int) - paper).sum(2) > 60
        out = (frames * rng.uniform(0.3, 0.8)).astype(np.uint8)
        out[:, mask] = card[mask]
        return out
    return card[None].repeat(t, 0)


def titles(frames, rng, other):
    t, h, w = _shape(frames)
    ink, _ = pair(rng)
    size, text = int(h * rng.uniform(0.14, 0.24)), [words(rng, 2, "capitals") for _ in range(3)]
    shade = 0.5 if sum(ink) > 380 else 1.0

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        for row, line in enumerate(text):
            draw.text((w // 16 + n % 3, h * (0.1 + 0.28 * row)), line, fill=ink, font=font(size))

    return _each((frames * shade).astype(np.uint8), paint)


def credits(frames, rng, other):
    t, h, w = _shape(frames)
    tall = Image.new("RGB", (w, 3 * h), (0, 0, 0) if rng.random() < 0.7 else colour(rng, 0, 90))
    lines(
        ImageDraw.Draw(tall),
        rng,
        (w // 5, 4, w - w // 6, 3 * h),
        int(rng.integers(9, 15)),
        colour(rng, 190, 256),
    )
    roll, speed = np.asarray(tall), rng.uniform(1, 2 * h / t)
    return np.stack([roll[int(n * speed) : int(n * speed) + h] for n in range(t)])


def subtitles(frames, rng, other):
    t, h, w = _shape(frames)
    size, count = int(h * rng.uniform(0.09, 0.13)), int(rng.integers(3, 5))
    ink = colour(rng, 220, 256)
    text = [[words(rng, 5) for _ in range(count)] for _ in range(2)]

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        top = h - count * (size + 4) - 4
        draw.rectangle((0, top - 3, w, h), fill=(0, 0, 0))
        for row, line in enumerate(text[n * 2 // t]):
            draw.text((8, top + row * (size + 4)), line, fill=ink, font=font(size))

    return _each(frames, paint)


# --- noisy screenshots -------------------------------------------------------------------------------------------


def screen_capture(frames, rng, other):
    t, h, w = _shape(frames)
    page = screen(rng, h, w)
    path = np.cumsum(rng.normal(0, 7, (t, 2)), axis=0) + [w / 2, h / 2]
    pop = int(rng.integers(4, t))
    box = (int(w * 0.3), int(h * 0.3), int(w * 0.75), int(h * 0.7))
    ink = colour(rng)

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        if n >= pop:
            draw.rectangle(box, fill=(235, 235, 240), outline=ink)
            lines(
                draw,
                np.random.default_rng(pop),
                (box[0] + 6, box[1] + 5, box[2] - 5, box[3]),
                max(6, h // 20),
                (20, 20, 20),
            )
        x, y = path[n] % [w, h]
        draw.polygon([(x, y), (x + 7, y + 7), (x, y + 10)], fill=(255, 255, 255), outline=(0, 0, 0))

    return _each(np.asarray(page)[None].repeat(t, 0), paint)


def scrolling(frames, rng, other):
    t, h, w = _shape(frames)
    top, rest = np.asarray(screen(rng, h, w)), np.asarray(screen(rng, h, w))
    bar, speed = h // 8, rng.uniform(1, 5)
    tall = np.concatenate([top[bar:], rest[bar:], top[bar:]])
    out = np.stack(
        [
            np.concatenate([top[:bar], tall[(s := int(n // 3 * 3 * speed) % (len(tall) - h)) : s + h - bar]])
            for n in range(t)
        ]
    )
    if rng.random() < 0.4:  # a film in a window of the screen
        small = _fit(frames, h // 2, w // 2)
        out[:, h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2] = small
    return out


def filmed_screen(frames, rng, other):
    cv2 = opencv()
    t, h, w = _shape(frames)
    page = screen_capture(frames, rng, other)
    corner = rng.uniform(0.02, 0.14, (4, 2)) * [w, h]
    sign = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    whole = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    rows, columns = np.mgrid[0:h, 0:w]
    moire = 10 * np.sin(columns * rng.uniform(0.6, 1.6) + rows * rng.uniform(-0.4, 0.4))[..., None]
    out = []
    for n in range(t):
        target = (whole + sign * corner + rng.normal(0, 0.7, 2)).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(whole, target)
        seen = cv2.warpPerspective(page[n], matrix, (w, h), borderValue=(22, 22, 24)).astype(np.float32)
        out.append((seen * 0.85 + moire + rng.normal(0, 4, seen.shape)).clip(0, 255).astype(np.uint8))
    return np.stack(out)


def phone(frames, rng, other):
    t, h, w = _shape(frames)
    wide = int(h * 0.56)
    page = screen_capture(frames[:, :, :wide] if wide < w else frames, rng, other)
    out = np.empty_like(frames)
    out[:] = colour(rng, 0, 60)
    left = (w - page.shape[2]) // 2
    out[:, :, left : left + page.shape[2]] = page
    return out


# --- innocent: only looks as if ----------------------------------------------------------------------------------


def whip(frames, rng, other):
    at = int(rng.integers(6, len(frames) - 4))
    push = np.exp(-((np.arange(len(frames)) - at) ** 2) / 2) * 30
    return np.stack(
        [_window(f, float(x), 0, 1.3) for f, x in zip(frames, np.cumsum(push) - push.sum() / 2, strict=True)]
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
    t, h, w = _shape(frames)
    x, y, ink = w * rng.uniform(0.1, 0.6), h * rng.uniform(0.1, 0.8), colour(rng, 200, 256)
    text, way = words(rng, 1, "capitals"), rng.normal(0, 0.6, 2)

    def paint(image, n):
        ImageDraw.Draw(image).text((x + way[0] * n, y + way[1] * n), text, fill=ink, font=font(h // 12))

    return _each(frames, paint)


def panned(frames, rng, other):
    way = rng.normal(0, 2.0, 2)
    return np.stack([_window(f, *(way * (n - len(frames) / 2)), 1.35) for n, f in enumerate(frames)])


def walker(frames, rng, other):
    t, h, w = _shape(frames)
    who, start, speed = Talker(rng), w * rng.uniform(-0.1, 0.3), w * rng.uniform(0.02, 0.04)
    who.waves = True
    return _each(frames, lambda image, n: who.draw(image, n / 8, start + speed * n, h * 0.55, h * 0.14))


def recoded(frames: np.ndarray, quality: int) -> np.ndarray:
    """Every frame through JPEG."""
    done = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        done.append(np.asarray(Image.open(buffer)))
    return np.stack(done)


FAULTS: dict[str, tuple[Effect, ...]] = {
    "editing": (cut, dissolve, wipe, inset, split, stickers, grade, mirrored, framed),
    "static": (drifting_still, still, slideshow, stepping, particles),
    "low_quality": (blurred, noisy, squeezed, pixelated, badly_lit, shaken, combed, broken_blocks),
    "lecture": (talking_head, slide_and_speaker, whiteboard, two_talkers),
    "text": (paragraphs, titles, credits, subtitles),
    "screenshot": (screen_capture, scrolling, filmed_screen, phone),
}
HELD_OUT = {"wipe", "mirrored", "slideshow", "pixelated", "whiteboard", "credits", "phone"}
"""Effects that training never sees, so that the report can say what happens with new ones."""
INNOCENT: tuple[Effect, ...] = (whip, flash, slow, grainy, dim, small_sign, panned, walker)
