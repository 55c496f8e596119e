"""Buckets: the alternative to frame pack. Every row is a batch of one shape, with as many clips as fit the budget.

Clips are brought to the nearest shape of a list before training; the model then takes the plain, dense path.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch

from cogvideox.data.pack import Row, shuffled
from cogvideox.errors import ConfigError
from cogvideox.noise import generator


class ClipShape(NamedTuple):
    """A clip in pixels."""

    frames: int
    height: int
    width: int


def bucket_of(clip: ClipShape, buckets: Sequence[ClipShape]) -> ClipShape:
    """The bucket for a clip: the most frames that the clip has, then the nearest aspect, then the nearest area.

    Raises ConfigError when the clip is shorter than every bucket; a bucket of one frame takes everything.
    """
    fitting = [bucket for bucket in buckets if bucket.frames <= clip.frames]
    if not fitting:
        least = min(bucket.frames for bucket in buckets)
        raise ConfigError(
            f"a clip of {clip.frames} frames: the shortest bucket has {least}; add a shorter one"
        )
    most = max(bucket.frames for bucket in fitting)

    def distance(bucket: ClipShape) -> tuple[float, float]:
        aspect = math.log(clip.height / clip.width * bucket.width / bucket.height)
        area = math.log(clip.height * clip.width / (bucket.height * bucket.width))
        return round(abs(aspect), 6), abs(area)

    return min((bucket for bucket in fitting if bucket.frames == most), key=distance)


def bucket_rows(
    shapes: Sequence[Hashable], tokens: Sequence[int], budget: int, seed: int = 0, epoch: int = 0
) -> list[Row]:
    """Batches of one shape that hold every sample once; a shape's last batch of an epoch may be smaller.

    ``shapes[i]`` is anything that two samples share when they can be stacked, ``tokens[i]`` their size. Raises
    ConfigError for a sample larger than the budget.
    """
    by_shape: dict[Hashable, list[int]] = defaultdict(list)
    for sample in shuffled(len(shapes), seed, epoch):
        by_shape[shapes[sample]].append(sample)
    rows: list[Row] = []
    for samples in by_shape.values():
        many = budget // tokens[samples[0]]
        if not many:
            raise ConfigError(
                f"sample {samples[0]} has {tokens[samples[0]]} tokens, a row has {budget}; raise the token budget"
            )
        rows += [tuple(samples[start : start + many]) for start in range(0, len(samples), many)]
    order_of_rows = torch.randperm(len(rows), generator=generator(seed, "order of rows", epoch)).tolist()
    return [rows[index] for index in order_of_rows]
