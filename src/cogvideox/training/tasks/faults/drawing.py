"""What effects are made with: painting on frames, scaling, moving; drawn writing, windows, slides and people."""

from __future__ import annotations

import io
import math
import string
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvideox.perception.flow import opencv

Colour = tuple[int, int, int]
TEXT = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had "
    "by word but not what all were we when your can said there use an each which she do how their if will "
    "up other about out "
)
WORDS = TEXT.split()
SCRIPTS = ("latin", "latin", "latin", "digits", "capitals", "blocks")


def colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    """A colour with channels in a range."""
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def pair(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Ink and paper that can be told apart."""
    dark, light = colour(rng, 0, 70), colour(rng, 180, 256)
    return (dark, light) if rng.random() < 0.6 else (light, dark)


def words(rng: np.random.Generator, count: int, script: str = "latin") -> str:
    """Something that looks like writing."""
    if script == "digits":
        return " ".join(str(rng.integers(0, 10 ** int(rng.integers(1, 5)))) for _ in range(count))
    picked = [WORDS[int(rng.integers(len(WORDS)))] for _ in range(count)]
    if script == "capitals":
        picked = [word.upper() for word in picked]
    if script == "blocks":
        letters = list(string.ascii_letters)
        picked = ["".join(rng.choice(letters, len(word))) for word in picked]
    return " ".join(picked)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow."""
    return ImageFont.load_default(max(6, size))


def lines(
    draw: ImageDraw.ImageDraw, rng, box: tuple[int, int, int, int], size: int, ink: Colour, most: int = 99
) -> None:
    """Fill a box (left, top, right, bottom) with lines of writing."""
    script = SCRIPTS[int(rng.integers(len(SCRIPTS)))]
    left, top, right, bottom = box
    step = max(size + 2, round(size * rng.uniform(1.15, 1.5)))
    for count, y in enumerate(range(top, bottom - size, step)):
        if count >= most:
            return
        wide = (right - left) * (rng.uniform(0.5, 1.0) if rng.random() < 0.4 else 1.0)
        text = words(rng, max(1, round(wide / size / 2.6)), script)
        draw.text((left, y), text, fill=ink, font=font(size))


def screen(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A computer's or a phone's screen: bars, panes, buttons, writing."""
    dark = rng.random() < 0.4
    paper = colour(rng, 20, 50) if dark else colour(rng, 225, 256)
    ink = colour(rng, 180, 240) if dark else colour(rng, 10, 80)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    small = max(6, height // 22)
    bar = height // int(rng.integers(9, 16))
    draw.rectangle((0, 0, width, bar), fill=colour(rng, 40, 220))
    for n in range(3):
        draw.ellipse(
            (4 + n * bar // 2, bar // 4, 4 + n * bar // 2 + bar // 3, bar // 4 + bar // 3), fill=colour(rng)
        )
    side = round(width * rng.uniform(0.12, 0.3)) if rng.random() < 0.7 else 0
    if side:
        draw.rectangle((0, bar, side, height), fill=tuple(max(0, c - 18) for c in paper))
        lines(draw, rng, (4, bar + 6, side - 4, height), small, ink)
    kind = int(rng.integers(4))
    if kind == 0:  # document or code
        lines(draw, rng, (side + 8, bar + 8, width - 8, height), small, ink)
    elif kind == 1:  # chat
        for y in range(bar + 8, height - 16, max(14, height // 7)):
            x = side + 8 if rng.random() < 0.5 else (side + width) // 2
            draw.rounded_rectangle(
                (x, y, x + (width - side) // 2 - 12, y + height // 9), 5, fill=colour(rng, 90, 230)
            )
            lines(draw, rng, (x + 5, y + 3, x + (width - side) // 2 - 18, y + height // 9), small, ink, 1)
    elif kind == 2:  # form or table
        for y in range(bar + 8, height - 12, max(12, height // 9)):
            draw.rectangle((side + 8, y, width - 8, y + height // 14), outline=ink)
            lines(draw, rng, (side + 12, y + 1, (side + width) // 2, y + height // 9), small, ink, 1)
    else:  # tiles
        tile = max(20, height // 4)
        for y in range(bar + 6, height - tile // 2, tile + 6):
            for x in range(side + 6, width - tile // 2, tile + 6):
                draw.rectangle((x, y, x + tile, y + tile - small - 4), fill=colour(rng, 60, 220))
                lines(draw, rng, (x, y + tile - small - 2, x + tile, y + tile + 8), small, ink, 1)
    return image


def slide(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A slide of a talk: a title, some points, sometimes a chart."""
    ink, paper = (colour(rng, 0, 90), colour(rng, 215, 256)) if rng.random() < 0.8 else pair(rng)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    big = max(9, height // 10)
    draw.text((width // 14, height // 14), words(rng, 3), fill=colour(rng, 0, 140), font=font(big))
    chart = rng.random() < 0.5
    right = width // 2 if chart else width - width // 14
    lines(draw, rng, (width // 12, height // 4, right, height - height // 10), max(7, height // 18), ink, 6)
    if chart:
        base = height - height // 8
        for n in range(int(rng.integers(3, 6))):
            x = right + 6 + n * width // 14
            draw.rectangle(
                (x, base - int(rng.integers(8, height // 2)), x + width // 20, base), fill=colour(rng)
            )
    return image


class Talker:
    """A person who talks to the camera: head and shoulders, a mouth, hands now and then. Drawn at any time t."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.skin = (int(rng.integers(110, 240)), int(rng.integers(80, 190)), int(rng.integers(60, 160)))
        self.cloth, self.hair = colour(rng, 10, 220), colour(rng, 5, 130)
        self.rate, self.phase = rng.uniform(2, 5), rng.uniform(0, 6)
        self.sway, self.size = rng.uniform(0.004, 0.02), rng.uniform(0.8, 1.25)
        self.waves = rng.random() < 0.6

    def draw(self, image: Image.Image, t: float, x: float, y: float, unit: float) -> None:
        """Onto ``image``, the middle of the face at (x, y), a face about ``unit`` pixels high."""
        draw = ImageDraw.Draw(image)
        u = unit * self.size
        x += u * 3 * self.sway * math.sin(t * 1.3 + self.phase)
        y += u * 2 * self.sway * math.sin(t * 1.9 + self.phase)
        draw.ellipse((x - 1.1 * u, y + 0.55 * u, x + 1.1 * u, y + 3.2 * u), fill=self.cloth)
        draw.rectangle((x - 0.16 * u, y + 0.3 * u, x + 0.16 * u, y + 0.75 * u), fill=self.skin)
        draw.ellipse((x - 0.44 * u, y - 0.62 * u, x + 0.44 * u, y + 0.3 * u), fill=self.hair)
        draw.ellipse((x - 0.38 * u, y - 0.48 * u, x + 0.38 * u, y + 0.5 * u), fill=self.skin)
        shut = math.sin(t * 0.9 + self.phase) > 0.97
        for eye in (-0.15, 0.15):
            tall = 0.01 if shut else 0.045
            box = (x + (eye - 0.06) * u, y - (0.08 + tall) * u, x + (eye + 0.06) * u, y - (0.08 - tall) * u)
            draw.ellipse(box, fill=(30, 25, 25))
        open_ = 0.02 + 0.07 * abs(math.sin(t * self.rate * 2 + self.phase))
        draw.ellipse(
            (x - 0.12 * u, y + (0.26 - open_) * u, x + 0.12 * u, y + (0.26 + open_) * u), fill=(110, 35, 40)
        )
        if self.waves:
            for side in (-1, 1):
                hx = x + side * u * (0.8 + 0.15 * math.sin(t * self.rate + side))
                hy = y + u * (1.3 + 0.3 * math.sin(t * self.rate * 0.7 + side + self.phase))
                draw.ellipse((hx - 0.17 * u, hy - 0.17 * u, hx + 0.17 * u, hy + 0.17 * u), fill=self.skin)


Effect = Callable[[np.ndarray, np.random.Generator, np.ndarray], np.ndarray]


def shape_of(frames: np.ndarray) -> tuple[int, int, int]:
    """Number of frames, rows and columns."""
    return frames.shape[0], frames.shape[1], frames.shape[2]


def painted(frames: np.ndarray, paint: Callable[[Image.Image, int], None]) -> np.ndarray:
    """Every frame painted upon."""
    done = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        paint(image, number)
        done.append(np.asarray(image))
    return np.stack(done)


def mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """``share`` [t] or [t, h, w] of the second clip."""
    share = share.reshape(share.shape + (1,) * (4 - share.ndim)).astype(np.float32)
    return (first * (1 - share) + second * share + 0.5).astype(np.uint8)


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every frame scaled to a size."""
    cv2 = opencv()
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


def moved(frame: np.ndarray, way: Sequence[float], zoom: float) -> np.ndarray:
    """A frame moved by ``way`` pixels to the right and down, and enlarged, its edges mirrored."""
    x, y = way
    cv2 = opencv()
    h, w = frame.shape[:2]
    matrix = np.array([[zoom, 0, (1 - zoom) * w / 2 + x], [0, zoom, (1 - zoom) * h / 2 + y]], np.float32)
    return cv2.warpAffine(frame, matrix, (w, h), borderMode=cv2.BORDER_REFLECT)


def recoded(frames: np.ndarray, quality: int) -> np.ndarray:
    """Every frame through JPEG."""
    done = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        done.append(np.asarray(Image.open(buffer)))
    return np.stack(done)
