"""Sample n: which faults, on which clip, through which codec; a function of (seed, n) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cogvideox.curation.labels import LABELS
from cogvideox.training.tasks.faults import edits, scenes
from cogvideox.training.tasks.faults.drawing import Effect, recoded
from cogvideox.training.tasks.faults.take_library import WIDTHS, TakeLibrary, as_another_video

FAULTS: dict[str, tuple[Effect, ...]] = {
    "editing": (
        edits.cut, edits.dissolve, edits.wipe, edits.inset, edits.split, edits.stickers, edits.grade, edits.mirrored,
        edits.framed,
    ),
    "static": (edits.drifting_still, edits.still, edits.slideshow, edits.stepping, edits.particles),
    "low_quality": (
        edits.blurred, edits.noisy, edits.squeezed, edits.pixelated, edits.badly_lit, edits.shaken, edits.combed,
        edits.broken_blocks,
    ),
    "lecture": (scenes.talking_head, scenes.slide_and_speaker, scenes.whiteboard, scenes.two_talkers),
    "text": (scenes.paragraphs, scenes.titles, scenes.credits, scenes.subtitles),
    "screenshot": (scenes.screen_capture, scenes.scrolling, scenes.filmed_screen, scenes.phone),
}  # fmt: skip
"""Label -> the effects that give it."""
INNOCENT: tuple[Effect, ...] = (
    edits.whip, edits.flash, edits.slow, edits.grainy, edits.dim, edits.small_sign, edits.panned, edits.walker,
)  # fmt: skip
"""Effects that only look like a fault and give no label."""
HELD_OUT = {"wipe", "mirrored", "slideshow", "pixelated", "whiteboard", "credits", "phone"}
"""Effects that training never sees, so that the report can say what happens with new ones."""

REPLACE = ("lecture", "screenshot")  # these draw a new picture; others change the one there is
ORDER = ("lecture", "screenshot", "static", "editing", "text", "low_quality")


@dataclass(frozen=True)
class Sample:
    """Frames ``uint8 [20, 128, w, 3]``, whether each label holds (None: not known), and the names of its effects."""

    frames: np.ndarray
    labels: dict[str, bool | None]
    effects: tuple[str, ...]
    video: str


def sample(
    stock: TakeLibrary, seed: int, index: int, new_effects: bool = False, varied: bool = False
) -> Sample:
    """Every label is given to about three of ten samples, one label in turn, a second one now and then.

    new_effects: take the effects that training leaves out instead of those it uses; varied: takes look as if they
    came from more videos than there are.
    """
    rng = np.random.Generator(np.random.Philox(key=(seed << 32) + index))
    width = int(rng.choice(WIDTHS))
    frames, video = stock.clip(rng, width)
    other = stock.clip(rng, width)[0]
    if varied:
        frames, other = as_another_video(frames, rng), as_another_video(other, rng)
    wanted = _wanted(rng, index)
    names = []
    if not wanted or rng.random() < 0.3:
        effect = INNOCENT[int(rng.integers(len(INNOCENT)))]
        frames, names = effect(frames, rng, other), [effect.__name__]
    for label in ORDER:
        if label in wanted:
            choices = [f for f in FAULTS[label] if (f.__name__ in HELD_OUT) == new_effects]
            effect = choices[int(rng.integers(len(choices)))]
            frames = effect(frames, rng, other)
            names.append(effect.__name__)
    if rng.random() < 0.8:
        frames = recoded(frames, int(rng.integers(45, 96)))
    return Sample(np.ascontiguousarray(frames), _labels(stock, video, wanted), tuple(names), video)


def _wanted(rng: np.random.Generator, index: int) -> set[str]:
    """A third of the samples is clean; the others have one label in turn, one in four of them a second."""
    turn = index % 9
    if turn >= len(LABELS):
        return set()
    wanted = {LABELS[turn]}
    if rng.random() < 0.25:
        second = LABELS[int(rng.integers(len(LABELS)))]
        if not (second in REPLACE and wanted & set(REPLACE)):
            wanted.add(second)
    return wanted


def _labels(stock: TakeLibrary, video: str, wanted: set[str]) -> dict[str, bool | None]:
    """What was put in holds; what the video has by itself holds too, unless a new picture took its place."""
    own = {} if wanted & set(REPLACE) else stock.known.get(video, {})
    labels: dict[str, bool | None] = {name: name in wanted or own.get(name, False) for name in LABELS}
    if wanted & set(REPLACE):  # windows and slides hold writing and rest; people differ about both
        labels["text"] = True if "text" in wanted else None
        labels["static"] = True if "static" in wanted else None
    if "text" in wanted and "static" not in wanted:
        labels["static"] = None
    if "low_quality" in wanted and "editing" not in wanted:
        labels["editing"] = labels["editing"] or False
    if "static" in wanted and "editing" not in wanted:
        labels["editing"] = None  # a slide show is edited too
    return labels
