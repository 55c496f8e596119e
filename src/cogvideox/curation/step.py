"""Step: one idea about one clip. A recipe is a list of them; each is pure, so it can run anywhere and be run again."""

from __future__ import annotations

from typing import ClassVar

from cogvideox.clip import Clip
from cogvideox.config import Config
from cogvideox.curation.view import View


class Step(Config):
    """The base of steps. Settings are fields; ``version`` changes when the same settings give other numbers."""

    kind: str
    version: ClassVar[int] = 1

    def check(self) -> None:
        """Asked before anything else, where the run is started. Raises what is wrong with files that settings name."""

    def ready(self) -> None:
        """Asked in each worker before its first film: load what is large. Raises what is missing there."""

    def digests(self) -> tuple[str, ...]:
        """Of files that settings name and whose change changes what is measured."""
        return ()

    def on_gpu(self) -> bool:
        """Whether it needs one."""
        return False

    def look(self, clip: Clip, view: View) -> tuple[Clip, View]:
        """The clip with what was found, dropped or not, and the view that later steps see (cropped, or the same)."""
        return self.measure(clip, view), view

    def measure(self, clip: Clip, view: View) -> Clip:
        """The clip with what was found. Steps that only measure implement this one."""
        raise TypeError(f"{type(self).__name__} has neither look nor measure")
