"""What of a prompt or a picture belongs to this world: the words its captions use, and what its frames look like."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from PIL import Image

from cogvideox.world.captions import ADVERBS, MOVE, PASSING, PHRASES, RICH_PHRASES, WHERE, plural
from cogvideox.world.style import COLOURS, SHAPES, get_style

_FORMS = (  # other forms of the captions' words, which parse.py reads as well
    "moving slide slides sliding travel travelling traveling go going pan panning growing shrink shrinking larger "
    "smaller bigger expand expanding becoming change changing transform transforming turn turning morph morphing "
    "rotate rotating spin spinning upwards upward downwards downward leftward rightward steadily slow quick single "
    "there which that then it its they while one"
)
_FILLERS = (
    "a an the of in on at to from by with and is are be video clip film animation showing shows show scene"
)
_GREY_SPREAD = 24.0  # between the channels of a pixel of the ground, jpeg and film noise included
_GREY_RANGE = (30.0, 160.0)
_COLOUR_DISTANCE = 60.0  # of a pixel from the nearest colour of the world, in RGB
_LEAST_KNOWN, _LEAST_COLOUR, _MOST_CONTRAST = 0.72, 0.002, 25.0
_SIDE = 64


def unknown_words(prompt: str, style: str = "plain") -> list[str]:
    """The words of a prompt that no caption of this style uses, in their order, each once; [] for an empty prompt.

    Numbers count too. Words of other writing systems are single words between spaces.
    """
    found = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", prompt.lower())
    return list(dict.fromkeys(word for word in found if word not in _vocabulary(style)))


def vocabulary_text() -> str:
    """What captions of this world can say, in one line for people."""
    return (
        f"{', '.join(SHAPES)} in {', '.join(COLOURS)}, one to three of them, that move left, right, up or down "
        "(slowly, quickly), grow, shrink, rotate or turn into another shape, or over which the camera pans"
    )


def resembles_world(frame: np.ndarray) -> bool:
    """Whether a picture (uint8 [h, w, 3]) looks like a frame of this world: flat colours of its palette on smooth,
    dark grey ground.

    Frames that were coded, scaled or made by a model pass; photos, drawings, screens and test pictures do not, as
    tests hold against rendered and real pictures.
    """
    height, width = frame.shape[:2]
    scale = _SIDE / min(height, width)
    size = max(_SIDE, round(width * scale)), max(_SIDE, round(height * scale))
    pixels = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX), np.float32)
    spread, light = pixels.max(-1) - pixels.min(-1), pixels.mean(-1)
    grey = (spread < _GREY_SPREAD) & (light > _GREY_RANGE[0]) & (light < _GREY_RANGE[1])
    palette = np.array(list(COLOURS.values()), np.float32)
    coloured = np.linalg.norm(pixels[..., None, :] - palette, axis=-1).min(-1) < _COLOUR_DISTANCE
    known = float((grey | coloured).mean())
    if known < _LEAST_KNOWN or coloured.mean() < _LEAST_COLOUR:
        return False
    return float(light[grey].std()) <= _MOST_CONTRAST if grey.any() else False


@cache
def _vocabulary(name: str) -> frozenset[str]:
    style = get_style(name)
    phrases = [*(PHRASES if name == "plain" else RICH_PHRASES).values()]
    phrases += [way for ways in WHERE.values() for way in ways]
    phrases += [verb for verbs in MOVE for verb in verbs]
    phrases += [adverb for adverbs in ADVERBS.values() for adverb in adverbs]
    phrases += [*style.accents.values(), *map(plural, style.accents.values())]
    phrases += PASSING.values() if style.accents else ()
    words = set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", " ".join(phrases))))
    others = (*_FORMS.split(), *_FILLERS.split(), "moving", "grey", "gray")
    return frozenset(
        [*words, *COLOURS, *style.shapes, *map(plural, style.shapes), *style.numbers.values(), *others]
    )
