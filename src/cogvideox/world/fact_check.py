"""Fact check by rules on pixels: frames -> what can be seen in them, and whether stated facts hold.

Only pixels are read, never the scene. Give it raw arrays, not 4:2:0 video, whose halved colour resolution hides the
shapes. How often it is right on rendered frames: docs/world.md.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cogvideox.errors import InputError
from cogvideox.world.captions import Check
from cogvideox.world.foreground import Foreground, Thing, find_things
from cogvideox.world.meeting import Track, find_tracks
from cogvideox.world.scene import RELATIONS
from cogvideox.world.style import get_style
from cogvideox.world.templates import PERIOD, Likeness, compare
from cogvideox.world.tracking import camera_travel, object_travel
from cogvideox.world.two_colours import find_coloured_things

UNCLEAR = "unclear"
_CLEAR_SHAPE = 0.80  # correlation with the best template
_CLEAR_COLOUR = 0.93  # cosine with the nearest palette colour, about 20 degrees
_MOVED = 0.08  # of the side: a shorter travel is no movement
_FAST = 0.34  # of the side: between the slow travel, .20, and the fast one, .50
_GREW, _SHRANK = 1.30, 0.77  # ratio of the sizes at the end and at the beginning
_TURNED = 45.0  # degrees through the clip: less is no rotation
_APART = 0.10  # of the side: least distance of two centres along the axis of their relation
_VIEWS = 4  # of the ground, between which the camera moves, in the longer clips of the rich style
_END = 0.3  # share of the clip that counts as its beginning, and as its end


@dataclass(frozen=True, slots=True)
class SeenThing:
    """One thing in one frame; its centre (x, y) in shares of the side. ``touching``: it hides another or is hidden."""

    colour: str
    shape: str
    centre: tuple[float, float]
    touching: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What is seen in a clip, in the words of the captions; "unclear" where the pixels do not tell."""

    colour: str
    shape: str
    first_shape: str
    last_shape: str
    count: int
    direction: str
    speed: str
    change: str
    camera: str
    confidence: dict[str, float]
    things: tuple[tuple[SeenThing, ...], ...]
    """What each frame shows."""
    accent: str = "none"
    tracks: dict[str, Track] | None = None
    """Rich style: colour -> how the thing of that colour moves, and how much of it others hide."""

    def share(self, holds: Callable[[tuple[SeenThing, ...]], bool]) -> float:
        """Share of the frames whose things fulfil ``holds``, 0 to 1; frames in which things touch do not count, unless
        there are no others."""
        free = [frame for frame in self.things if not any(thing.touching for thing in frame)] or self.things
        return sum(holds(frame) for frame in free) / len(free)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: whether it holds, what was seen, and how clearly (``confidence``, 0 to 1)."""

    check: Check
    holds: bool
    seen: str | int
    confidence: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The results of all checks of one clip, in their order, and ``reading``: everything that was seen."""

    findings: tuple[Finding, ...]
    reading: Reading

    @property
    def all_hold(self) -> bool:
        """Whether every fact holds."""
        return all(finding.holds for finding in self.findings)

    @property
    def share(self) -> float:
        """The share of facts that hold; 1 when nothing was asked."""
        return sum(finding.holds for finding in self.findings) / max(len(self.findings), 1)

    def to_dict(self) -> dict:
        """Plain values for a JSON line."""
        return {
            "all": self.all_hold,
            "checks": [
                {**f.check.to_dict(), "holds": f.holds, "seen": f.seen, "confidence": round(f.confidence, 3)}
                for f in self.findings
            ],
        }


def check_facts(frames: np.ndarray, checks: Iterable[Check | dict], style: str = "plain") -> Verdict:
    """Say which facts hold in uint8 frames ``[t, h, w, 3]`` of a style of the world; raises InputError for other
    arrays, unknown checks or an unknown style."""
    reading = read_frames(frames, style)
    asked = [check if isinstance(check, Check) else Check.from_dict(check) for check in checks]
    return Verdict(tuple(find(check, reading) for check in asked), reading)


def find(check: Check, reading: Reading) -> Finding:
    """Whether a check holds in what was read from a clip. Raises InputError for an unknown kind."""
    if check.kind in _IN_FRAMES:
        share = reading.share(partial(_IN_FRAMES[check.kind], str(check.value)))
        return Finding(check, share > 0.5, f"in {share:.0%} of the frames", abs(2 * share - 1))
    if check.kind in _OF_TRACKS and reading.tracks is not None:
        holds, seen, sure = _OF_TRACKS[check.kind](str(check.value), reading.tracks)
        return Finding(check, holds, seen, sure)
    if check.kind not in reading.confidence:
        known = (*reading.confidence, *_IN_FRAMES, *(_OF_TRACKS if reading.tracks is not None else ()))
        raise InputError(
            f"check {check.kind!r}: unknown kind; known: {', '.join(known)}; world.facts(scene) makes checks"
        )
    seen = getattr(reading, "first_shape" if check.kind == "shape" and check.when == "start" else check.kind)
    holds = seen == check.value
    if check.kind == "change" and check.into is not None:
        holds = holds and reading.last_shape == check.into
        seen = f"{seen} into {reading.last_shape}" if seen == "transform" else seen
    return Finding(check, bool(holds), seen, reading.confidence[check.kind])


_RELATION = re.compile(rf"(\w+) \w+ ({'|'.join(RELATIONS)})(?: of)? (\w+) \w+")


def _shows(name: str, things: Sequence[SeenThing]) -> bool:
    """Whether one of the things has the colour and shape of ``name``, such as "red circle"."""
    return any(f"{thing.colour} {thing.shape}" == name for thing in things)


def _stand(stated: str, things: Sequence[SeenThing]) -> bool:
    """Whether one frame shows a relation such as "red circle left of blue square"; things are told apart by colour."""
    stands = _RELATION.fullmatch(stated)
    if stands is None:
        raise InputError(f"check relation {stated!r}: say it as 'red circle left of blue square'")
    first, relation, second = stands.groups()
    axis = 0 if RELATIONS[relation][0] else 1
    positions = [[t.centre[axis] for t in things if t.colour == colour] for colour in (first, second)]
    return all(positions) and RELATIONS[relation][axis] * (positions[0][0] - positions[1][0]) > _APART


_IN_FRAMES: dict[str, Callable[[str, Sequence[SeenThing]], bool]] = {"thing": _shows, "relation": _stand}
"""Checks for clips of two different things: true when over half of the frames show it."""


_FRONT = re.compile(r"(\w+) \w+ (in front of|behind) (\w+) \w+")
_HIDDEN = 0.15  # of its size: less is not hidden


def _moves(stated: str, tracks: dict[str, Track]) -> tuple[bool, str, float]:
    """Whether the thing of a colour moves as stated ("red circle right"), what was seen, and how clearly."""
    colour, _, way = stated.partition(" ")
    if colour not in tracks:
        return False, UNCLEAR, 0.0
    moved = tracks[colour].travel
    far = float(np.abs(moved).max())
    seen = _way(np.array(moved))
    return seen == way.split()[-1], seen, min(1.0, abs(far - _MOVED) / _MOVED)


def _hides(stated: str, tracks: dict[str, Track]) -> tuple[bool, str, float]:
    """Whether one thing passes in front of another, or behind it, as stated; things are told apart by colour."""
    stands = _FRONT.fullmatch(stated)
    if stands is None:
        raise InputError(
            f"check front {stated!r}: say it as 'red circle in front of blue square', or with behind"
        )
    first, passing, second = stands.groups()
    if first not in tracks or second not in tracks:
        return False, UNCLEAR, 0.0
    hidden = tracks[first].hidden, tracks[second].hidden
    if max(hidden) < _HIDDEN or min(hidden) > 0.5 * max(hidden):
        return False, "apart" if max(hidden) < _HIDDEN else UNCLEAR, 0.0
    seen = "in front of" if hidden[1] > hidden[0] else "behind"
    return seen == passing, seen, 1 - min(hidden) / max(hidden)


_OF_TRACKS = {"moves": _moves, "front": _hides}
"""Checks of how each of two different things moves, and of who hides whom."""


def read_frames(frames: np.ndarray, style: str = "plain") -> Reading:
    """Describe uint8 frames ``[t, h, w, 3]`` of a style of the world, at least 5 of them and square-ish; raises
    InputError for other arrays or an unknown style."""
    _check_frames(frames)
    if get_style(style).name == "plain":
        return _read(frames, find_things(frames), style)
    foreground = find_coloured_things(frames)
    reading, (accent, sure) = _read(frames, foreground, style), _accent(foreground.things)
    confidence = reading.confidence | {"accent": sure}
    return replace(reading, accent=accent, tracks=find_tracks(foreground), confidence=confidence)


def _read(frames: np.ndarray, foreground: Foreground, style: str) -> Reading:
    whole = [thing for thing in foreground.things if thing.whole] or list(foreground.things)
    likeness = compare(foreground, whole, style)
    colour, colour_sure = _colour(foreground.things)
    count, count_sure = _count(foreground)
    times = np.array([thing.frame for thing in whole]) / (len(frames) - 1)
    shape, shape_sure = _shape(likeness, times >= 0)
    first, _ = _shape(likeness, times <= _END)
    last, _ = _shape(likeness, times >= 1 - _END)
    side = frames.shape[1]
    camera = np.array(camera_travel(frames, foreground, None if style == "plain" else _VIEWS)) / side
    panned = _way(camera)
    moved = np.array(object_travel(foreground)) / side + (camera if panned != "none" else 0.0)
    change, change_sure = _change(foreground, whole, likeness, (first, last))
    far = float(np.abs(moved).max())
    return Reading(
        colour=colour,
        shape=shape,
        first_shape=first,
        last_shape=last,
        count=count,
        direction=_way(moved),
        speed="fast" if far > _FAST else "slow",
        change=change,
        camera="static" if panned == "none" else panned,
        things=_things(foreground, whole, likeness, len(frames), side),
        confidence={
            "colour": colour_sure,
            "shape": shape_sure,
            "count": count_sure,
            "direction": min(1.0, abs(far - _MOVED) / _MOVED),
            "speed": min(1.0, abs(far - _FAST) / 0.14),
            "change": change_sure,
            "camera": min(1.0, abs(float(np.abs(camera).max()) - _MOVED) / _MOVED),
        },
    )


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 5:
        shape = f"{frames.dtype} {list(frames.shape)}"
        raise InputError(f"frames {shape}: the judge reads uint8 [t, h, w, 3], t >= 5")


def _things(
    foreground: Foreground, whole: list[Thing], likeness: Likeness, frames: int, side: int
) -> tuple[tuple[SeenThing, ...], ...]:
    """The things of each frame; the shape of one that the frame's edge cuts is unclear."""
    score = likeness.score
    shapes = {
        thing.label: likeness.shapes[row.argmax()] if row.max() >= _CLEAR_SHAPE else UNCLEAR
        for thing, row in zip(whole, score, strict=True)
    }
    seen: list[list[SeenThing]] = [[] for _ in range(frames)]
    for thing in foreground.things:
        colour = thing.colour if thing.colour_match > _CLEAR_COLOUR else UNCLEAR
        centre = (thing.centre[0] / side, thing.centre[1] / side)
        shape = UNCLEAR if thing.touching else shapes.get(thing.label, UNCLEAR)
        seen[thing.frame].append(SeenThing(colour, shape, centre, thing.touching))
    return tuple(map(tuple, seen))


def _colour(things: Sequence[Thing]) -> tuple[str, float]:
    """The colour of most of the foreground, over all frames, and its share; other colours beside it make it unclear."""
    votes: defaultdict[str, float] = defaultdict(float)  # colour -> pixels
    for thing in things:
        votes[thing.colour if thing.colour_match > _CLEAR_COLOUR else UNCLEAR] += thing.mass
    if not votes:
        return UNCLEAR, 0.0
    name, mass = max(votes.items(), key=lambda vote: vote[1])
    share = mass / sum(votes.values())
    return (name if share > 0.7 else UNCLEAR), share


def _accent(things: Sequence[Thing]) -> tuple[str, float]:
    """The second colour of most things of all frames, none where they have one alone, and its share."""
    votes = Counter(thing.accent or "none" for thing in things)
    if not votes:
        return UNCLEAR, 0.0
    name, held = votes.most_common(1)[0]
    share = held / votes.total()
    return (name if share > 0.7 else UNCLEAR), share


def _count(foreground: Foreground) -> tuple[int, float]:
    """The number of things in most frames; 0 when no number holds in more than half of them."""
    numbers = Counter(thing.frame for thing in foreground.things)
    frames = len(foreground.alpha)
    number, held = Counter(numbers[frame] for frame in range(frames)).most_common(1)[0]
    return (number if held > 0.5 * frames else 0), held / frames


def _shape(likeness: Likeness, chosen: np.ndarray) -> tuple[str, float]:
    """The shape with the highest mean score over the chosen things, and that score (0 to 1)."""
    if not chosen.any():
        return UNCLEAR, 0.0
    mean = likeness.score[chosen].mean(0)
    best = int(mean.argmax())
    return (likeness.shapes[best] if mean[best] >= _CLEAR_SHAPE else UNCLEAR), float(
        np.clip(mean[best], 0, 1)
    )


def _way(moved: np.ndarray) -> str:
    """The direction of a movement (x, y) in shares of the side: none if it is short, unclear if it is diagonal."""
    x, y = float(moved[0]), float(moved[1])
    far, near = max(abs(x), abs(y)), min(abs(x), abs(y))
    if far <= _MOVED:
        return "none"
    if far < 1.5 * near:
        return UNCLEAR
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def _change(
    foreground: Foreground, whole: list[Thing], likeness: Likeness, shapes: tuple[str, str]
) -> tuple[str, float]:
    """What happens to the things themselves: transform, grow, shrink, rotate or none."""
    first, last = shapes
    if first != last and UNCLEAR not in shapes:
        return "transform", 1.0
    ratio = _size_ratio(whole, len(foreground.alpha))
    if ratio > _GREW or ratio < _SHRANK:
        return ("grow" if ratio > 1 else "shrink"), float(min(1.0, abs(np.log2(ratio))))
    turned = _turned(whole, likeness, first) if foreground.things else 0.0
    if abs(turned) > _TURNED:
        return "rotate", min(1.0, abs(turned) / 90)
    return "none", 1.0 - max(abs(turned) / 90, min(1.0, abs(float(np.log2(ratio)))))


def _size_ratio(whole: list[Thing], frames: int) -> float:
    """Size at the end over size at the beginning, as lengths (frames 1-2 and the two before the last)."""
    early = [thing.mass for thing in whole if thing.frame in (1, 2)]
    late = [thing.mass for thing in whole if thing.frame in (frames - 3, frames - 2)]
    return float(np.sqrt(np.mean(late) / np.mean(early))) if early and late else 1.0


def _turned(whole: list[Thing], likeness: Likeness, shape: str) -> float:
    """Degrees the first thing of each frame turns through the clip; 0 for shapes whose turning cannot be seen."""
    period = PERIOD.get(shape)
    if period is None:
        return 0.0
    angles: dict[int, float] = {}
    for thing, angle in zip(whole, likeness.angle[:, likeness.shapes.index(shape)], strict=True):
        angles.setdefault(thing.frame, float(angle))
    steps = np.diff([angles[frame] for frame in sorted(angles)])
    return float(((steps + period / 2) % period - period / 2).sum())
