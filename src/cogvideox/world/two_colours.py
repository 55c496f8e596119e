"""Pieces of more than one colour: a thing that has two, or two things that touch, one of which may hide the other.

The foreground is cut into connected pieces; small gaps are closed first, since the edge between two opposite colours
has no chroma. Each pixel has the nearest hue of the palette. Where most pieces of a clip have two hues, its things have
two colours; where few have, two things of one colour each touch there, and the piece is cut along their edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cogvideox.world.foreground import (
    FULL_CHROMA,
    PALETTE,
    Foreground,
    Thing,
    chroma_of,
    drop_small,
    label_pieces,
    measure_pieces,
)
from cogvideox.world.style import COLOURS

_LEAST_SHARE, _LEAST_PIXELS = 0.06, 4  # of a piece, to count as one of its colours
_MOST_TOUCHING = 0.8  # share of pieces with two hues above which things have two colours
_NAMES = tuple(COLOURS)


def find_coloured_things(frames: np.ndarray) -> Foreground:
    """Segment uint8 frames ``[t, h, w, 3]`` of the rich style."""
    chroma, strength, mask = chroma_of(frames)
    closed, inside = _closed(mask)
    labels = drop_small(label_pieces(closed) * mask)
    likeness = chroma @ PALETTE.T
    hue = likeness.argmax(-1)
    votes = _votes(labels, hue)
    kinds = (votes >= _LEAST_SHARE * votes.sum(1, keepdims=True)) & (votes >= _LEAST_PIXELS)
    kinds[0] = False
    several = kinds.sum(1) > 1
    if not several.any():
        return measure_pieces(chroma, strength, labels)
    if several.sum() > _MOST_TOUCHING * (len(kinds) - 1):
        return _of_two_colours(chroma, strength, labels, hue, votes, inside)
    return _cut(chroma, strength, labels, np.where(kinds[labels], likeness, -np.inf).argmax(-1), several)


def _closed(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask without narrow gaps, and what of it is not at its edge."""
    reach = max(1, round(mask.shape[1] / 64))
    wide = _spread(mask, reach)
    closed = ~_spread(~wide, reach)
    return mask | closed, ~_spread(~closed, 1)


def _spread(mask: np.ndarray, reach: int) -> np.ndarray:
    """Every pixel that is so near one of the mask ``[t, h, w]``, along both sides."""
    for axis in (1, 2):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(mask, pad)
        length = mask.shape[axis]
        mask = np.logical_or.reduce(
            [np.take(padded, range(step, step + length), axis) for step in range(2 * reach + 1)]
        )
    return mask


def _votes(labels: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """How many pixels of each piece have each hue ``[pieces + 1, colours]``, of those whose neighbours have it too."""
    same = labels > 0
    for axis in (1, 2):
        for step in (-1, 1):
            near = np.roll(labels, step, axis) == labels
            same &= near & (np.roll(hue, step, axis) == hue)
    number = len(_NAMES)
    flat = (labels * number + hue)[same]
    return np.bincount(flat, minlength=(int(labels.max()) + 1) * number).reshape(-1, number)


def _of_two_colours(
    chroma: np.ndarray,
    strength: np.ndarray,
    labels: np.ndarray,
    hue: np.ndarray,
    votes: np.ndarray,
    inside: np.ndarray,
) -> Foreground:
    """Things whose larger share has their colour, and whose second largest is an accent of another."""
    even = strength.copy()
    for label in range(1, len(votes)):
        where = labels == label
        for kind in np.argsort(-votes[label])[:2]:
            chosen = where & (hue == kind)
            if chosen.any():
                even[chosen] = strength[chosen] / max(float(np.percentile(strength[chosen], 75)), 1.0)
    even[inside & (labels > 0)] = 1.0
    found = measure_pieces(chroma, np.where(labels > 0, even, strength / FULL_CHROMA[hue]), labels)
    return replace(found, things=tuple(_named(thing, chroma, labels, hue, votes) for thing in found.things))


def _named(thing: Thing, chroma: np.ndarray, labels: np.ndarray, hue: np.ndarray, votes: np.ndarray) -> Thing:
    """The thing with the names of its two colours."""
    first, second = (int(kind) for kind in np.argsort(-votes[thing.label])[:2])
    frame = thing.frame
    mean = chroma[frame][(labels[frame] == thing.label) & (hue[frame] == first)].mean(0)
    match = float(mean @ PALETTE[first] / max(float(np.linalg.norm(mean)), 1e-6))
    share = votes[thing.label, second] / max(int(votes[thing.label].sum()), 1)
    accent = _NAMES[second] if share >= _LEAST_SHARE else None
    return replace(thing, colour=_NAMES[first], colour_match=match, accent=accent)


def _cut(
    chroma: np.ndarray, strength: np.ndarray, labels: np.ndarray, hue: np.ndarray, several: np.ndarray
) -> Foreground:
    """Each colour of a piece that has several is a thing of its own there."""
    colours = np.where(several[labels], labels * len(_NAMES) + hue, labels * len(_NAMES))
    numbers, cut = np.unique(np.where(labels > 0, colours, 0), return_inverse=True)
    found = measure_pieces(chroma, strength, cut.reshape(labels.shape))
    touching = several[numbers // len(_NAMES)]
    return replace(
        found,
        things=tuple(
            replace(thing, touching=True, whole=False) if touching[thing.label] else thing
            for thing in found.things
        ),
    )
