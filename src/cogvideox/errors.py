"""The exceptions people meet. Every message says what, where, and what to do.

CogVideoXError ├── InputError          what was asked for cannot be made │   ├── PromptError     empty, not text, over
the token budget │   ├── SizeError       height or width │   ├── FrameError      frames, seconds, frames per second │
└── MediaError      an image or a video that cannot be read ├── ConfigError         unknown key, wrong type, settings
that contradict each other ├── CheckpointError     missing, truncated, mis-shaped or unsafe weights ├── OutputError
the result cannot be written ├── NumericsError       NaN or Inf, with the layer that made it ├── ChatError           a
language model that gave no usable answer └── DependencyError     an optional library is not installed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_MESSAGE = 1900  # characters


class CogVideoXError(Exception):
    """The root: catch it to catch everything this package raises on purpose.

    Messages are one printable line of bounded length, whatever names and values of files stand in them.
    """

    def __init__(self, *values: object) -> None:
        super().__init__(*(one_line(value) if isinstance(value, str) else value for value in values))


class InputError(CogVideoXError):
    """What was asked for cannot be made."""


class PromptError(InputError):
    """An empty prompt, one that is not text, or one that is over the token budget."""


class SizeError(InputError):
    """A height or width the model cannot make."""


class FrameError(InputError):
    """A number of frames, seconds or frames per second the model cannot make."""


class MediaError(InputError):
    """An image or video that cannot be read."""


class ConfigError(CogVideoXError, ValueError):
    """An unknown setting, a value of the wrong type, or settings that contradict each other."""


class CheckpointError(CogVideoXError):
    """Weights that are missing, truncated, mis-shaped or unsafe to read."""


class OutputError(CogVideoXError):
    """A result that cannot be written."""


class NumericsError(CogVideoXError):
    """NaN or Inf; the message names the layer that made it first."""


class ChatError(CogVideoXError):
    """A language model that cannot be asked, or gave no usable answer; see ``cogvideox.chat.ChatFailure``."""


class DependencyError(CogVideoXError):
    """An optional library is not installed; the message names the extra that brings it."""


MOST_SHOWN = 300  # letters of one name in a message
MOST_OPTIONS, MOST_LETTERS = 500, 120  # what a suggestion is looked for among: comparing costs their product


def one_line(text: str) -> str:
    """A text with its control characters, line ends and lone surrogates escaped; a long one loses its middle."""
    if len(text) > MOST_MESSAGE:
        text = f"{text[:1500]} ... {text[-350:]}"
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[: 2 * MOST_MESSAGE]


def describe(error: Exception) -> str:
    """Any error as one line for a person: what, where, what to do."""
    if isinstance(error, CogVideoXError):
        return one_line(" ".join(str(error).split()))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: lower --frames, --height or --width, or use --dtype bfloat16"
    if isinstance(error, OSError):
        what = f"{error.filename or 'system'}: {error.strerror or error}"
        return one_line(" ".join(f"{what}; check the path and the disk".split()))
    kind, text = type(error).__name__, one_line(" ".join(str(error).split()))[:300]
    return f"unexpected {kind}: {text}; run again with --debug for the traceback, and please report it"


def suggest(name: str, options: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the closest option, or '' when nothing is close.

    Takes a bounded time for any input: of many options those are compared that end like ``name``.
    """
    if len(name) > MOST_LETTERS:
        return ""
    known = [option for option in options if len(option) <= MOST_LETTERS]
    if len(known) > MOST_OPTIONS:
        end = name.rpartition(".")[2]
        known = [option for option in known if option.endswith(end)][:MOST_OPTIONS]
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def few(names: Sequence[str], limit: int = 5) -> str:
    """The first names and how many there are in all, for a one-line message."""
    shown = ", ".join(f"{name[:MOST_SHOWN]}{'...' * (len(name) > MOST_SHOWN)}" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
