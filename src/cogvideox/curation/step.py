"""CurationStep: one idea about one clip. A recipe is a list of them; each is pure and can run anywhere, again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from cogvideox.clip import Clip
from cogvideox.config import Config
from cogvideox.curation.view import View


class CurationStep(Config):
    """The base of steps. Settings are fields; ``version`` changes when the same settings give other numbers."""

    kind: str
    version: ClassVar[int] = 1

    def check(self) -> None:
        """Asked before anything else, where the run is started. Raises what is wrong with files that settings name."""

    def ready(self) -> None:
        """Asked in each worker before its first video: load what is large. Raises what is missing there."""

    def digests(self) -> tuple[str, ...]:
        """Of files that settings name and whose change changes what is measured."""
        return ()

    def gives(self) -> tuple[str, ...]:
        """Names of the scores it may give, for rules."""
        return ()

    def on_gpu(self) -> bool:
        """Whether it needs one."""
        return False

    def key_variables(self) -> frozenset[str]:
        """Environment variables that may hold the keys of servers it asks; none when its settings name no address."""
        return frozenset(_keys(self.model_dump(mode="json")))

    def look(self, clip: Clip, view: View) -> tuple[Clip, View]:
        """The clip with what was found, dropped or not, and the view that later steps see (cropped, or the same)."""
        return self.measure(clip, view), view

    def measure(self, clip: Clip, view: View) -> Clip:
        """The clip with what was found. Steps that only measure implement this one."""
        raise TypeError(f"{type(self).__name__} has neither look nor measure")


def _keys(value: Any) -> Iterator[str]:
    """Of settings that hold an address: the variables they name, and the one that is usual."""
    if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        yield "OPENAI_API_KEY"
    elif isinstance(value, dict):
        below = [name for part in value.values() for name in _keys(part)]
        yield from below
        if below and isinstance(value.get("key_variable"), str):
            yield value["key_variable"]
    elif isinstance(value, list | tuple):
        yield from (name for part in value for name in _keys(part))
