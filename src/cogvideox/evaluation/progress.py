"""Progress of measuring: each group of scores, and each pass over the videos, is a stage with a bar of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cogvideox.evaluation.measures import Material
from cogvideox.video import Video

Show = Callable[[str, int, int], Any]
"""(stage, done, of how many)."""


def watched(material: Material, group: str, show: Show) -> Material:
    """The same material, which tells ``show`` whenever a video of it is read while ``group`` is measured."""
    references = material.references
    if references is not None:
        references = replace(references, watch=Passes(f"{group}: references", show))
    real = (
        _Watched(material.real, Passes(f"{group}: real videos", show))
        if len(material.real)
        else material.real
    )
    return replace(
        material,
        clips=replace(material.clips, watch=Passes(f"{group}: videos", show)),
        references=references,
        real=real,
        watch=Passes(f"{group}: intervals", show),
    )


@dataclass
class Passes:
    """Counts how often the videos are gone through: a bar that went back would guess the time left wrongly."""

    stage: str
    show: Show
    number: int = 1
    last: int = field(default=0, repr=False)

    def __call__(self, done: int, total: int) -> None:
        self.number += done < self.last
        self.last = done
        self.show(self.stage if self.number == 1 else f"{self.stage}, pass {self.number}", done, total)


class _Watched(Sequence[Video]):
    def __init__(self, videos: Sequence[Video], watch: Passes) -> None:
        self.videos, self.watch = videos, watch

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int) and place < len(self.videos):
            self.watch(place + 1, len(self.videos))
        return self.videos[place]
