"""Scene -> sentence, and scene -> the facts that sentence states.

Every phrasing of a tier states the same facts, so ``facts(scene)`` does not depend on which one was drawn.
Speed is stated, and counts as a fact, only where the scene is slow or fast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.scene import COLOURS, SHAPES, Scene, random_source

NUMBERS = {2: "two", 3: "three"}
ADVERBS = {"slow": ("slowly",), "fast": ("quickly", "fast")}

WHERE = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards", "upward"),
    "down": ("down", "downwards", "downward"),
}
MOVE = (("moves", "move"), ("moves", "move"), ("slides", "slide"), ("travels", "travel"), ("goes", "go"))

PHRASES = {
    "grow": "{a} grows / {a} is growing / {a} gets bigger / "
    "{a} becomes larger / {a} expands / {a} grows bigger and bigger",
    "shrink": "{a} shrinks / {a} is shrinking / {a} gets smaller / "
    "{a} becomes smaller / {a} gets smaller and smaller / {a} is getting smaller",
    "rotate": "{a} rotates / {a} spins / {a} is rotating / "
    "{a} spins around / {a} rotates in place / {a} is spinning",
    "transform": "{a} turns into {b} / {a} becomes {b} / {a} changes into {b} / "
    "{a} transforms into {b} / {a} morphs into {b}",
    "one": "{a} / one {name} / a single {name} / there is {a} / {a} on a grey background",
    "several": "{a} / there are {a} / {a} on a grey background / {a} side by side / {a} next to each other",
    "pan": "the camera pans {where} over {a} / the camera moves {where} over {a} / the camera pans {where} past {a} / "
    "{a}, the camera pans {where} / {a} while the camera pans {where} / a camera pan {where} over {a}",
    "pair": "{a} and {b} / there is {a} and {b} / {a} next to {b} / {a} beside {b}",
    "left": "{a} to the left of {b} / {a} is to the left of {b} / {a} left of {b}",
    "right": "{a} to the right of {b} / {a} is to the right of {b} / {a} right of {b}",
    "above": "{a} above {b} / {a} is above {b}",
    "below": "{a} below {b} / {a} is below {b}",
}
"""Phrasings of each story, divided by slashes."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact that frames can be asked about.

    ``kind`` is colour, shape, count, direction, speed, change or camera; where things differ, thing ("red circle")
    and relation ("red circle left of blue square") stand for colour and shape. ``into`` is the final shape of a
    transformation; ``when`` is "start" where a shape is only claimed for the beginning of the clip.
    """

    kind: str
    value: str | int
    into: str | None = None
    when: str = "always"

    def to_dict(self) -> dict[str, str | int]:
        """Plain values, without the fields that say nothing."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "always")}

    @classmethod
    def from_dict(cls, record: dict) -> Check:
        """The inverse of ``to_dict``; raises InputError for missing or unknown fields."""
        unknown = set(record) - {"kind", "value", "into", "when"}
        if unknown or not {"kind", "value"} <= set(record):
            raise InputError(f"check {record}: a check has kind and value, and may have into and when")
        return cls(**record)


def facts(scene: Scene) -> tuple[Check, ...]:
    """What every caption of this scene states."""
    if scene.second is not None:
        first, second = scene.things
        return pair_facts(first, second, scene.relation)
    start = "start" if scene.into is not None else "always"
    checks = [
        Check("colour", scene.colour),
        Check("shape", scene.shape, when=start),
        Check("count", scene.count),
    ]
    if scene.direction != "none":
        checks.append(Check("direction", scene.direction))
        if scene.speed != "normal":
            checks.append(Check("speed", scene.speed))
    if scene.change != "none":
        checks.append(Check("change", scene.change, into=scene.into))
    if scene.camera != "static":
        checks.append(Check("camera", scene.camera))
    return tuple(checks)


def pair_facts(first: tuple[str, str], second: tuple[str, str], relation: str) -> tuple[Check, ...]:
    """What is stated of two different (colour, shape); relation "none": nothing of how they stand."""
    one, other = " ".join(first), " ".join(second)
    checks = (Check("thing", one), Check("thing", other), Check("count", 2))
    if relation == "none":
        return checks
    between = f"{relation} of" if relation in ("left", "right") else relation
    return (*checks, Check("relation", f"{one} {between} {other}"))


def caption(scene: Scene, seed: int, index: int) -> str:
    """One of the scene's phrasings, chosen by (seed, index): at most 24 words, some written as a sentence."""
    rng = random_source(seed, "caption", index)
    text = _sentence(scene, rng)
    style = rng.random()
    if style < 0.25:
        return text[0].upper() + text[1:] + "."
    return text[0].upper() + text[1:] if style < 0.35 else text


def _sentence(scene: Scene, rng: np.random.Generator) -> str:
    if scene.second is not None:
        first, second = (with_article(" ".join(thing)) for thing in scene.things)
        return _phrase(rng, "pair" if scene.relation == "none" else scene.relation, a=first, b=second)
    one = scene.count == 1
    name = f"{scene.colour} {scene.shape}"
    subject = with_article(name) if one else f"{NUMBERS[scene.count]} {plural(name)}"
    if scene.direction != "none":
        return _moving(scene, subject, rng)
    if scene.camera != "static":
        where = _choose(rng, WHERE[scene.camera][:2])
        return _phrase(rng, "pan", a=subject, where=where)
    if scene.change == "none":
        return _phrase(rng, "one" if one else "several", a=subject, name=name)
    target = ""
    if scene.into is not None:
        target = with_article(f"{scene.colour} {scene.into}" if rng.random() < 0.3 else scene.into)
    return _phrase(rng, scene.change, a=subject, b=target)


def _moving(scene: Scene, subject: str, rng: np.random.Generator) -> str:
    plain, base = MOVE[int(rng.integers(len(MOVE)))]
    verb = plain if scene.count == 1 else base
    where = _choose(rng, WHERE[scene.direction])
    if rng.random() < 0.2:
        verb = "is moving" if scene.count == 1 else "are moving"
    elif rng.random() < 0.3:
        where = WHERE[scene.direction][0]
    if scene.speed == "normal":
        return f"{subject} {verb} {where}"
    adverb = _choose(rng, ADVERBS[scene.speed])
    before = adverb != "fast" and not verb.startswith(("is", "are")) and rng.random() < 0.5
    return f"{subject} {adverb} {verb} {where}" if before else f"{subject} {verb} {where} {adverb}"


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _phrase(rng: np.random.Generator, story: str, **words: str) -> str:
    return _choose(rng, PHRASES[story].split(" / ")).format(**words)


def with_article(name: str) -> str:
    """The name of one thing: 'a circle', 'an orange ring'."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(name: str) -> str:
    """The name of several things: 'circles', 'crosses'."""
    return f"{name}es" if name.endswith("s") else f"{name}s"


_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_SHAPE = re.compile(rf"\b({'|'.join(SHAPES)})(?:e?s)?\b")
_WAY = r"(?:to\s+the\s+)?(left|right|up|down)(?:wards?)?\b"
_HASTE = r"(?:slowly\s+|quickly\s+|fast\s+|steadily\s+)?"
_MOVES = re.compile(rf"\b(?:moves?|moving|slides?|travels?|goes|go)\s+{_HASTE}{_WAY}")
_CAMERA = re.compile(rf"\bcamera\s+(?:pans?|moves)\s+{_HASTE}{_WAY}")
_INTO = re.compile(
    rf"\b(?:turns?\s+into|becomes?|changes?\s+into|transforms?\s+into|morphs?\s+into)\s+an?\s+"
    rf"(?:(?:{'|'.join(COLOURS)})\s+)?({'|'.join(SHAPES)})\b"
)
_CHANGES = {
    "grow": re.compile(r"\b(?:grow(?:s|ing)?|bigger|larger|expands?)\b"),
    "shrink": re.compile(r"\b(?:shrink(?:s|ing)?|smaller)\b"),
    "rotate": re.compile(r"\b(?:rotat(?:es?|ing)|spin(?:s|ning)?)\b"),
}
_THING = rf"an?\s+({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})"
_PAIR = re.compile(
    rf"(?:there\s+is\s+)?{_THING}\s+(?:is\s+)?(?:(?:to\s+the\s+)?(left|right)\s+of|(above|below)|and|next\s+to|beside)\s+{_THING}"
)
_SPEEDS = {"slow": re.compile(r"\bslowly\b"), "fast": re.compile(r"\b(?:quickly|fast)\b")}


def read_caption(text: str) -> tuple[Check, ...]:
    """What a sentence states, in the order of ``facts``; a fact it does not state is absent.

    For every scene ``read_caption(caption(scene, ...)) == facts(scene)``. The first colour and shape named count.
    """
    said = " ".join(re.sub(r"[^a-z\s]", " ", text.lower()).split())
    pair = _PAIR.fullmatch(said)  # what says more is read as about its first thing
    if pair:
        return pair_facts((pair[1], pair[2]), (pair[5], pair[6]), pair[3] or pair[4] or "none")
    into, camera = _INTO.search(said), _CAMERA.search(said)
    rest = _CAMERA.sub(" ", said)
    colour, shape, moves = _COLOUR.search(rest), _SHAPE.search(rest), _MOVES.search(rest)
    checks = []
    if colour:
        checks.append(Check("colour", colour[1]))
    if shape:
        checks.append(Check("shape", shape[1], when="start" if into else "always"))
        numbers = [value for value, word in NUMBERS.items() if re.search(rf"\b{word}\b", rest)]
        checks.append(Check("count", numbers[0] if numbers else 1))
    if moves:
        checks.append(Check("direction", moves[1]))
        checks += [Check("speed", speed) for speed, words in _SPEEDS.items() if words.search(rest)][:1]
    changes = [change for change, words in _CHANGES.items() if words.search(rest)]
    if into:
        checks.append(Check("change", "transform", into=into[1]))
    elif changes:
        checks.append(Check("change", changes[0]))
    if camera:
        checks.append(Check("camera", camera[1]))
    return tuple(checks)
