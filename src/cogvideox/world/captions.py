"""Scene -> sentence, and scene -> the facts that sentence states.

Every phrasing of a tier states the same facts, so ``facts(scene)`` does not depend on which one was drawn.
Speed is stated, and counts as a fact, only where the scene is slow or fast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.scene import Scene, random_source
from cogvideox.world.style import COLOURS, get_style

NUMBERS = get_style("plain").numbers
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
RICH_PHRASES = PHRASES | {
    "one": "{a} / one {name} / a single {name} / there is {a} / {a} that rests",
    "several": "{a} / there are {a} / {a} that rest / {a} side by side / {a} next to each other",
    "duet": "{a} moves {where} and {b} moves {other} / {a} goes {where} while {b} goes {other} / "
    "{a} moves {where}, {b} slides {other} / {a} is moving {where} and {b} is moving {other}",
    "together": "{a} and {b} move {where} / {a} and {b} slide {where} together / both {a} and {b} go {where}",
    "meet": "{a} moves {where} and passes {passing} {b} / {a} passes {passing} {b}, moving {where} / "
    "moving {where}, {a} passes {passing} {b} / {a} slides {where}, passing {passing} {b}",
    "cross": "{a} moves {where} and passes {passing} {b} that moves {other} / {a}, moving {where}, passes "
    "{passing} {b} moving {other} / moving {where}, {a} passes {passing} {b} that goes {other}",
}
"""Phrasings of the rich style: its ground is not grey, and there are more stories."""
PASSING = {"first": "in front of", "second": "behind"}
"""Which of two things that meet is in front -> how the first one passes the second."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact that frames can be asked about.

    ``kind`` is colour, shape, count, direction, speed, change or camera; where things differ, thing ("red circle")
    and relation ("red circle left of blue square") stand for colour and shape, moves ("red circle right") for
    direction, and front ("red circle in front of blue square") says who hides whom. accent is the second colour of a
    thing that has two. ``into`` is the final shape of a
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
        return _facts_of_two(scene)
    start = "start" if scene.into is not None else "always"
    checks = [
        Check("colour", scene.colour),
        Check("shape", scene.shape, when=start),
        *([Check("accent", scene.accent)] if scene.accent is not None else []),
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


def _facts_of_two(scene: Scene) -> tuple[Check, ...]:
    first, second = scene.things
    resting = pair_facts(first, second, scene.relation)
    return (*resting, *moving_facts(first, second, scene.directions, PASSING.get(scene.front)))


def moving_facts(
    first: tuple[str, str], second: tuple[str, str], directions: tuple[str, ...], passing: str | None
) -> tuple[Check, ...]:
    """What is stated of how two different (colour, shape) move ("none": nothing), and of who hides whom (``passing``:
    "in front of" or "behind", None: nobody)."""
    one, other = " ".join(first), " ".join(second)
    checks = [
        Check("moves", f"{name} {direction}")
        for name, direction in zip((one, other), directions, strict=True)
        if direction != "none"
    ]
    if passing is not None:
        checks.append(Check("front", f"{one} {passing} {other}"))
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
        return _sentence_of_two(scene, rng)
    style, one = get_style(scene.style), scene.count == 1
    name = f"{scene.colour} {scene.shape}"
    several = f"{style.numbers.get(scene.count)} {plural(name)}"
    if scene.accent is not None:
        accent = f"{scene.accent} {style.accents[scene.shape]}"
        name, several = f"{name} with {with_article(accent)}", f"{several} with {plural(accent)}"
    subject = with_article(name) if one else several
    if scene.direction != "none":
        return _moving(scene, subject, rng)
    if scene.camera != "static":
        where = _choose(rng, WHERE[scene.camera][:2])
        return _phrase(rng, scene, "pan", a=subject, where=where)
    if scene.change == "none":
        return _phrase(rng, scene, "one" if one else "several", a=subject, name=name)
    target = ""
    if scene.into is not None:
        target = with_article(f"{scene.colour} {scene.into}" if rng.random() < 0.3 else scene.into)
    return _phrase(rng, scene, scene.change, a=subject, b=target)


def _sentence_of_two(scene: Scene, rng: np.random.Generator) -> str:
    first, second = (with_article(" ".join(thing)) for thing in scene.things)
    if scene.direction == "none":
        return _phrase(rng, scene, "pair" if scene.relation == "none" else scene.relation, a=first, b=second)
    story = "duet"
    if scene.front != "none":
        story = "meet" if scene.second_direction == "none" else "cross"
    elif scene.direction == scene.second_direction and rng.random() < 0.7:
        story = "together"
    where = _choose(rng, WHERE[scene.direction])
    other = "" if scene.second_direction == "none" else _choose(rng, WHERE[scene.second_direction])
    words = {"where": where, "other": other, "passing": PASSING.get(scene.front, "")}
    return _phrase(rng, scene, story, a=first, b=second, **words)


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


def _phrase(rng: np.random.Generator, scene: Scene, story: str, **words: str) -> str:
    phrases = PHRASES if scene.style == "plain" else RICH_PHRASES
    return _choose(rng, phrases[story].split(" / ")).format(**words)


def with_article(name: str) -> str:
    """The name of one thing: 'a circle', 'an orange ring'."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(name: str) -> str:
    """The name of several things: 'circles', 'crosses', 'fish'."""
    if name.endswith("fish"):
        return name
    return f"{name}es" if name.endswith("s") else f"{name}s"


_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_WAY = r"(?:to\s+the\s+)?(left|right|up|down)(?:wards?)?\b"
_HASTE = r"(?:slowly\s+|quickly\s+|fast\s+|steadily\s+)?"
_MOVES = re.compile(rf"\b(?:moves?|moving|slides?|travels?|goes|go)\s+{_HASTE}{_WAY}")
_CAMERA = re.compile(rf"\bcamera\s+(?:pans?|moves)\s+{_HASTE}{_WAY}")
_CHANGES = {
    "grow": re.compile(r"\b(?:grow(?:s|ing)?|bigger|larger|expands?)\b"),
    "shrink": re.compile(r"\b(?:shrink(?:s|ing)?|smaller)\b"),
    "rotate": re.compile(r"\b(?:rotat(?:es?|ing)|spin(?:s|ning)?)\b"),
}
_SPEEDS = {"slow": re.compile(r"\bslowly\b"), "fast": re.compile(r"\b(?:quickly|fast)\b")}
_PLACE = re.compile(rf"\b({'|'.join(PASSING.values())})\b")


class _Patterns:
    """How the things of a style are named in captions."""

    def __init__(self, name: str) -> None:
        style = get_style(name)
        self.numbers = style.numbers
        colours, shapes = "|".join(COLOURS), "|".join(style.shapes)
        self.shape = re.compile(rf"\b({shapes})(?:e?s)?\b")
        self.into = re.compile(
            rf"\b(?:turns?\s+into|becomes?|changes?\s+into|transforms?\s+into|morphs?\s+into)\s+an?\s+"
            rf"(?:(?:{colours})\s+)?({shapes})\b"
        )
        thing = rf"an?\s+({colours})\s+({shapes})"
        self.pair = re.compile(
            rf"(?:there\s+is\s+)?{thing}\s+(?:is\s+)?(?:(?:to\s+the\s+)?(left|right)\s+of|(above|below)|and|next\s+to|beside)"
            rf"\s+{thing}"
        )
        self.thing = re.compile(rf"\b{thing}\b") if style.accents else None
        accents = "|".join(style.accents.values())
        self.accent = (
            re.compile(rf"\bwith\s+(?:an?\s+)?({colours})\s+(?:{accents})s?\b") if style.accents else None
        )


_patterns = cache(_Patterns)


def read_caption(text: str, style: str = "plain") -> tuple[Check, ...]:
    """What a sentence of a style states, in the order of ``facts``; a fact it does not state is absent.

    For every scene ``read_caption(caption(scene, ...), scene.style) == facts(scene)``. The first colour and shape named
    count. Raises InputError for an unknown style.
    """
    said = " ".join(re.sub(r"[^a-z\s]", " ", text.lower()).split())
    patterns = _patterns(style)
    pair = patterns.pair.fullmatch(said)  # what says more is read as about its first thing
    if pair:
        return pair_facts((pair[1], pair[2]), (pair[5], pair[6]), pair[3] or pair[4] or "none")
    two = patterns.thing.findall(said) if patterns.thing else []
    ways = _MOVES.findall(said)
    if len(two) == 2 and ways:
        return _two_moving(two, ways, _PLACE.search(said))
    return _of_one(said, patterns)


def _two_moving(
    two: list[tuple[str, str]], ways: list[str], passing: re.Match[str] | None
) -> tuple[Check, ...]:
    """The facts of two things that move: ways are named in the order of the things; one way alone is that of both, or
    of the first where it passes the second."""
    first, second = two
    alone = "none" if passing else ways[0]
    directions = (ways[0], ways[1] if len(ways) > 1 else alone)
    return (
        *pair_facts(first, second, "none"),
        *moving_facts(first, second, directions, passing[1] if passing else None),
    )


def _of_one(text: str, patterns: _Patterns) -> tuple[Check, ...]:
    """The facts of one thing, or of several equal ones."""
    into, camera = patterns.into.search(text), _CAMERA.search(text)
    rest = _CAMERA.sub(" ", text)
    colour, shape, moves = _COLOUR.search(rest), patterns.shape.search(rest), _MOVES.search(rest)
    accent = patterns.accent.search(rest) if patterns.accent else None
    checks = []
    if colour:
        checks.append(Check("colour", colour[1]))
    if shape:
        checks.append(Check("shape", shape[1], when="start" if into else "always"))
        if accent:
            checks.append(Check("accent", accent[1]))
        numbers = [value for value, word in patterns.numbers.items() if re.search(rf"\b{word}\b", rest)]
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
