"""A language model made of rules that knows the tiny world: it answers every instruction of this package, offline.

It reads the pictures and texts of a question as a real model would, so the whole pipeline runs through the same door.
"""

from __future__ import annotations

import json
import re

import numpy as np

from cogvideox.captioning.instructions import DENSE, FRAME, MATCH, MERGE, SHORT
from cogvideox.chat import ChatFailure, Question, Scripted
from cogvideox.errors import InputError
from cogvideox.world import check_facts, read_caption, read_frames
from cogvideox.world.captions import NUMBERS, plural, with_article
from cogvideox.world.foreground import find_things
from cogvideox.world.style import SHAPES
from cogvideox.world.templates import compare

WAYS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
CHANGES = {"grow": "grows", "shrink": "shrinks", "rotate": "rotates"}
LEAST_SURE = 0.5  # a speed between slow and fast is not said


FOREIGN = (
    "this is no clip of the tiny world of moving shapes, the only one these rules know; ask a video model"
)


def is_tiny_world(frames: np.ndarray) -> bool:
    """Whether ``uint8 [t, h, w, 3]`` may be of the tiny world: an even grey ground, and shapes of strong colour.

    Of 5 frames averaged to about 64 pixels: of world clips at least .88 is ground and at most .03 weakly coloured.
    """
    some = frames[np.linspace(0, len(frames) - 1, 5).round().astype(int)]
    step = max(1, min(some.shape[1:3]) // 64)
    tall, wide = some.shape[1] // step, some.shape[2] // step
    cut = some[:, : tall * step, : wide * step].reshape(len(some), tall, step, wide, step, 3)
    small = cut.mean(axis=(2, 4), dtype=np.float32)
    grey = small.mean(axis=-1)
    strength = np.linalg.norm(small - grey[..., None], axis=-1)
    ground = strength <= 14
    if ground.mean() < 0.75 or ((strength > 14) & (strength < 40)).mean() > 0.06:
        return False
    return bool(grey[ground].std() <= 22 and 50 <= grey[ground].mean() <= 140)


def world_model() -> Scripted:
    """A language model made of rules that answers every captioning instruction about the tiny world."""
    return Scripted(_reply, "world rules/1")


def _reply(question: Question) -> str:
    replies = {SHORT: _clip, DENSE: _clip, FRAME: _frame, MERGE: _merge, MATCH: _match}
    for instruction, reply in replies.items():
        if question.purpose == instruction.name:
            return reply(question)
    asked = question.purpose or "a question without a purpose"
    raise ChatFailure("rejected", f"{asked}: no rule answers it")


def _clip(question: Question) -> str:
    """What the judge of the world sees, in words. Raises ChatFailure("refused") where it sees nothing clearly."""
    frames = _frames(question)
    try:
        reading = read_frames(frames)
    except InputError as error:
        raise ChatFailure("rejected", str(error)) from None
    if reading.colour == "unclear" or reading.first_shape == "unclear" or reading.count not in (1, *NUMBERS):
        raise ChatFailure("refused", "nothing of the tiny world can be seen clearly")
    name, many = f"{reading.colour} {reading.first_shape}", reading.count > 1
    subject = f"{NUMBERS[reading.count]} {plural(name)}" if many else with_article(name)
    if reading.camera in WAYS:
        return f"The camera pans {WAYS[reading.camera]} over {subject}."
    if reading.change == "transform":
        return _capital(f"{subject} turns into {with_article(reading.last_shape)}.")
    if reading.change in CHANGES:
        return _capital(f"{subject} {CHANGES[reading.change]}.")
    if reading.direction in WAYS:
        haste = {"slow": " slowly", "fast": " quickly"}[reading.speed]
        haste = haste if reading.confidence["speed"] > LEAST_SURE else ""
        return _capital(f"{subject} {'move' if many else 'moves'}{haste} {WAYS[reading.direction]}.")
    return _capital(f"{subject} {'rest' if many else 'rests'} on a grey background.")


def _frames(question: Question) -> np.ndarray:
    """The pictures of a question. Raises ChatFailure("refused") for what these rules know nothing about."""
    frames = np.stack([image.pixels() for image in question.images])
    if not is_tiny_world(frames):
        raise ChatFailure("refused", FOREIGN)
    return frames


def _frame(question: Question) -> str:
    """Each thing with its colour, shape, size and place."""
    frame = _frames(question)[0]
    foreground = find_things(frame[None])
    things = list(foreground.things)
    if not things:
        return "An empty grey background of soft noise."
    shapes = [SHAPES[int(row.argmax())] for row in compare(foreground, things).score]
    side = frame.shape[0]
    descriptions = []
    for thing, shape in zip(things, shapes, strict=True):
        large = {True: "large ", False: ""}[thing.mass > 0.1 * side**2]
        small = {True: "small ", False: ""}[thing.mass < 0.035 * side**2]
        x, y = thing.centre[0] / frame.shape[1], thing.centre[1] / side
        named = with_article(f"{large}{small}{thing.colour} {shape}")
        descriptions.append(f"{named} {where(x, y)}")
    return _capital("; ".join(sorted(descriptions)) + ", on a grey background of soft noise.")


def where(x: float, y: float) -> str:
    """Where in the picture, in words; x and y run from 0 to 1, y downwards."""
    row = "upper" if y < 0.36 else "lower" if y > 0.64 else ""
    column = "left" if x < 0.36 else "right" if x > 0.64 else ""
    if row and column:
        return f"in the {row} {column}"
    if not row and not column:
        return "in the centre"
    return f"in the {row} part" if row else f"at the {column} side"


_PLACES = re.compile(r"\b(?:in the|at the) (?:upper|lower|left|right|centre)(?: left| right| part| side)?")


def _merge(question: Question) -> str:
    """The short caption says what happens; the first and the last frame say where it begins and ends."""
    head, _, whole = question.text.partition("\nWhole clip: ")
    frames = {float(second): text for second, text in json.loads(head).items()}
    texts = [frames[second] for second in sorted(frames)]
    story = whole.strip() or texts[0]
    first, last = (_PLACES.search(text) for text in (texts[0], texts[-1]))
    if first and last and first[0] != last[0]:
        story += f" It begins {first[0]} and ends {last[0]}."
    elif first:
        story += f" It stays {first[0]}."
    return f"{story} The background is grey."


def _match(question: Question) -> str:
    """5 when every fact the caption states is seen, 1 when none is."""
    checks = read_caption(question.text)
    if not checks:
        return json.dumps({"score": 1, "wrong": "it states nothing that can be seen"})
    frames = _frames(question)
    verdict = check_facts(frames, checks)
    wrong = [finding.check.kind for finding in verdict.findings if not finding.holds]
    return json.dumps({"score": 1 + round(4 * verdict.share), "wrong": ", ".join(wrong)})


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
