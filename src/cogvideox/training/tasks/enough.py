"""How much of the data a run will see: what its steps do not reach is not encoded."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from cogvideox.clip_folders.listing import Listing
from cogvideox.data.stream import BatchRows
from cogvideox.training.tasks.sizes import tokens_of
from cogvideox.transformer import TransformerConfig

if TYPE_CHECKING:
    from cogvideox.training.tasks.diffusion import DiffusionTraining


def drawn_in(rows: int | None, clips: int, batch: int, seed: int) -> set[int] | None:
    """The numbers of the clips of the world that so many rows of ``batch`` hold; None: all of them."""
    if rows is None or rows * batch >= clips:
        return None
    order = BatchRows(clips, batch, seed)
    return {one for row in range(rows) for one in order[row]}


def enough(
    listing: Listing,
    task: DiffusionTraining,
    network: TransformerConfig,
    text: int,
    rows: int | None,
    seed: int,
) -> Listing:
    """The clips of a folder that ``rows`` can hold at most, drawn by ``seed``; that others are left out is said."""
    most = None if rows is None else most_clips(task, network, text, rows, listing)
    if most is None or most >= len(listing.entries):
        return listing
    drawn = sorted(listing.entries, key=lambda entry: random.Random(f"{seed}/enough/{entry.name}").random())
    print(
        f"{listing.root}: {most} of {len(listing.entries)} clips are prepared, the steps of this run reach no more",
        file=sys.stderr,
    )
    kept = {entry.name for entry in drawn[:most]}
    return replace(listing, entries=[entry for entry in listing.entries if entry.name in kept])


def most_clips(
    task: DiffusionTraining, network: TransformerConfig, text: int, rows: int, listing: Listing
) -> int:
    """Clips that so many rows hold if all are as short as can be, and as many more as may turn out unusable."""
    data = task.data
    assert data is not None
    if data.rows == "batch":
        most = rows * task.batch
    else:
        size = data.size.resolved(None)
        high, wide = (side // 8 for side in size.fit(1, 1))
        frames = 1 if any(entry.is_image for entry in listing.entries) else (size.least_frames - 1) // 4 + 1
        least = tokens_of((network.out_channels, frames, high, wide), text, network.patch)
        most = rows * ceil((data.budget or 0) / least)
    return ceil(most / (1 - min(data.lost, 0.5)))
