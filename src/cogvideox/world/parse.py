"""Sentence -> the facts it states: the inverse of ``caption``, and a reader of longer descriptions too."""

from __future__ import annotations

import re

from cogvideox.world.caption import Check, pair_facts
from cogvideox.world.scene import COLOURS, SHAPES

_NUMBERS = {"two": 2, "three": 3}
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
        numbers = [value for word, value in _NUMBERS.items() if re.search(rf"\b{word}\b", rest)]
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
