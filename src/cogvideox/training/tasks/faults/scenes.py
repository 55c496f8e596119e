"""Faults that are drawn: people who talk, writing, screens.

Each takes frames ``uint8 [t, h, w, 3]``, a random generator and ``other`` (another clip of that shape), and returns
frames of that shape.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from cogvideox.perception.flow import opencv
from cogvideox.training.tasks.faults.drawing import (
    Talker,
    colour,
    fit,
    font,
    lines,
    painted,
    pair,
    screen,
    shape_of,
    slide,
    words,
)

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
    """One person who talks to the camera."""
    t, h, w = shape_of(frames)
    who, room = Talker(rng), _room(frames, rng, other)
    x, y, unit = w * rng.uniform(0.35, 0.65), h * rng.uniform(0.32, 0.48), h * rng.uniform(0.3, 0.5)
    return painted(room[None].repeat(t, 0), lambda image, n: who.draw(image, n / 8, x, y, unit))


def slide_and_speaker(frames, rng, other):
    """Slides of a talk, the speaker in a corner."""
    t, h, w = shape_of(frames)
    pages = [np.asarray(slide(rng, h, w)) for _ in range(int(rng.integers(1, 3)))]
    who, corner = Talker(rng), rng.random() < 0.7
    x = w * float(rng.choice([0.13, 0.87]))
    base = np.stack([pages[n * len(pages) // t] for n in range(t)])

    def paint(image, n):
        if corner:
            half = int(h * 0.16)
            ImageDraw.Draw(image).rectangle((x - half, h - 2 * half, x + half, h), fill=(60, 70, 80))
        who.draw(image, n / 8, x, h * 0.78, h * 0.22)

    return painted(base, paint)


def whiteboard(frames, rng, other):
    """A person who writes on a board."""
    t, h, w = shape_of(frames)
    board = np.empty_like(frames)
    board[:] = colour(rng, 215, 250) if rng.random() < 0.7 else colour(rng, 10, 60)
    ink = colour(rng, 0, 120)
    starts = [(w * rng.uniform(0.1, 0.9), h * rng.uniform(0.1, 0.8)) for _ in range(3)]
    who = Talker(rng)
    strokes: list[tuple[float, float]] = []
    for x, y in starts:
        across, down = x + np.cumsum(rng.normal(2, 4, t)), y + np.cumsum(rng.normal(0, 4, t))
        strokes += zip(across, down, strict=True)

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        seen = strokes[: 3 + len(strokes) * n // t]
        draw.line(seen, fill=ink if board[0, 0, 0, 0] > 128 else (240, 240, 240), width=2)
        who.draw(image, n / 8, w * 0.85, h * 0.5, h * 0.26)

    return painted(board, paint)


def two_talkers(frames, rng, other):
    """Two people in talk beside each other."""
    t, h, w = shape_of(frames)
    room, pair_ = _room(frames, rng, other), (Talker(rng), Talker(rng))
    y, unit = h * rng.uniform(0.38, 0.5), h * rng.uniform(0.22, 0.36)

    def paint(image, n):
        pair_[0].draw(image, n / 8, w * 0.27, y, unit)
        pair_[1].draw(image, n / 8 + 2, w * 0.73, y, unit)

    return painted(room[None].repeat(t, 0), paint)


# --- text dominated ----------------------------------------------------------------------------------------------


def paragraphs(frames, rng, other):
    """A page of writing, alone or over the clip."""
    t, h, w = shape_of(frames)
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
    """Three lines of large capitals over the clip."""
    t, h, w = shape_of(frames)
    ink, _ = pair(rng)
    size, text = int(h * rng.uniform(0.14, 0.24)), [words(rng, 2, "capitals") for _ in range(3)]
    shade = 0.5 if sum(ink) > 380 else 1.0

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        for row, line in enumerate(text):
            draw.text((w // 16 + n % 3, h * (0.1 + 0.28 * row)), line, fill=ink, font=font(size))

    return painted((frames * shade).astype(np.uint8), paint)


def credits(frames, rng, other):
    """Lines of writing that roll up."""
    t, h, w = shape_of(frames)
    tall = Image.new("RGB", (w, 3 * h), (0, 0, 0) if rng.random() < 0.7 else colour(rng, 0, 90))
    size, ink = int(rng.integers(9, 15)), colour(rng, 190, 256)
    lines(ImageDraw.Draw(tall), rng, (w // 5, 4, w - w // 6, 3 * h), size, ink)
    roll, speed = np.asarray(tall), rng.uniform(1, 2 * h / t)
    return np.stack([roll[int(n * speed) : int(n * speed) + h] for n in range(t)])


def subtitles(frames, rng, other):
    """Several lines of subtitles on a black bar."""
    t, h, w = shape_of(frames)
    size, count = int(h * rng.uniform(0.09, 0.13)), int(rng.integers(3, 5))
    ink = colour(rng, 220, 256)
    text = [[words(rng, 5) for _ in range(count)] for _ in range(2)]

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        top = h - count * (size + 4) - 4
        draw.rectangle((0, top - 3, w, h), fill=(0, 0, 0))
        for row, line in enumerate(text[n * 2 // t]):
            draw.text((8, top + row * (size + 4)), line, fill=ink, font=font(size))

    return painted(frames, paint)


# --- noisy screenshots -------------------------------------------------------------------------------------------


def screen_capture(frames, rng, other):
    """A recorded screen with a moving mouse pointer and a window that opens."""
    t, h, w = shape_of(frames)
    page = screen(rng, h, w)
    path = np.cumsum(rng.normal(0, 7, (t, 2)), axis=0) + [w / 2, h / 2]
    pop = int(rng.integers(4, t))
    box = (int(w * 0.3), int(h * 0.3), int(w * 0.75), int(h * 0.7))
    ink = colour(rng)

    def paint(image, n):
        draw = ImageDraw.Draw(image)
        if n >= pop:
            draw.rectangle(box, fill=(235, 235, 240), outline=ink)
            inside = (box[0] + 6, box[1] + 5, box[2] - 5, box[3])
            lines(draw, np.random.default_rng(pop), inside, max(6, h // 20), (20, 20, 20))
        x, y = path[n] % [w, h]
        draw.polygon([(x, y), (x + 7, y + 7), (x, y + 10)], fill=(255, 255, 255), outline=(0, 0, 0))

    return painted(np.asarray(page)[None].repeat(t, 0), paint)


def scrolling(frames, rng, other):
    """A recorded screen that scrolls, sometimes with a clip in a window."""
    t, h, w = shape_of(frames)
    top, rest = np.asarray(screen(rng, h, w)), np.asarray(screen(rng, h, w))
    bar, speed = h // 8, rng.uniform(1, 5)
    tall = np.concatenate([top[bar:], rest[bar:], top[bar:]])
    starts = [int(n // 3 * 3 * speed) % (len(tall) - h) for n in range(t)]
    out = np.stack([np.concatenate([top[:bar], tall[start : start + h - bar]]) for start in starts])
    if rng.random() < 0.4:  # a video in a window of the screen
        small = fit(frames, h // 2, w // 2)
        out[:, h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2] = small
    return out


def filmed_screen(frames, rng, other):
    """A screen filmed with a camera: askew, with moiré and noise."""
    cv2 = opencv()
    t, h, w = shape_of(frames)
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
    """A recorded phone screen, upright between bars."""
    t, h, w = shape_of(frames)
    wide = int(h * 0.56)
    page = screen_capture(frames[:, :, :wide] if wide < w else frames, rng, other)
    out = np.empty_like(frames)
    out[:] = colour(rng, 0, 60)
    left = (w - page.shape[2]) // 2
    out[:, :, left : left + page.shape[2]] = page
    return out
