"""One ControlNet of a run as it is typed: ``FOLDER:0.8@0.0-0.6=edges.mp4``. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from cogvideox.errors import ConfigError

ENTRY = re.compile(
    r"(?P<path>[^=]+?)(?::(?P<strength>[^:@=/\\]*))?(?:@(?P<start>[\d.]+)-(?P<stop>[\d.]+))?(?:=(?P<video>.+))?"
)
STRONGEST = 10.0
"""More than this times what a ControlNet was trained to add is a mistake."""


@dataclass(frozen=True)
class ControlNetEntry:
    """A ControlNet: its folder, file or hub id, how strongly it adds, in which share of the steps, and its video.

    ``start`` and ``stop`` lie between 0 and 1. ``video``: path of its own control video; None: the one of ``control``.
    """

    path: str
    strength: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    video: str | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """From ``FOLDER[:STRENGTH][@START-STOP][=VIDEO]``. Raises ConfigError."""
        how = "write FOLDER:0.8@0.0-0.6, or FOLDER:0.8@0.0-0.6=VIDEO"
        match = ENTRY.fullmatch(text.strip())
        if match is None or "\0" in text:
            raise ConfigError(f"control_net {text!r}: not a ControlNet; {how}")
        strength = _number(match["strength"], 1.0, text, how)
        start, stop = _number(match["start"], 0.0, text, how), _number(match["stop"], 1.0, text, how)
        if not 0 <= strength <= STRONGEST:  # NaN is not either
            raise ConfigError(
                f"control_net {text!r}: strength {strength:g} must be 0 to {STRONGEST:g}; {how}"
            )
        if not 0 <= start < stop <= 1:
            raise ConfigError(
                f"control_net {text!r}: the steps from {start:g} to {stop:g} must be shares of the run, 0 to 1, the "
                f"first one smaller; {how}"
            )
        return cls(match["path"].strip(), strength, start, stop, match["video"])


def _number(text: str | None, usual: float, whole: str, how: str) -> float:
    if text is None:
        return usual
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"control_net {whole!r}: {text!r} is not a number; {how}") from None
