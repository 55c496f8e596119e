"""What a person or a script sees: results on stdout, everything else on stderr, one line per error.

Exit codes: 0 done, 1 error, 2 asked for something that cannot be, 3 some items failed, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.errors import ConfigError, InputError, describe
from cogvideox.progress import interrupts_are_kept, on_one_line, printable, say, write_line

if TYPE_CHECKING:
    pass

OK, ERROR, USAGE, PARTIAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141


def result(text: str) -> None:
    """One line of result, for people and pipes."""
    write_line(sys.stdout, printable(text))


def result_json(values: Any) -> None:
    """One result as one line of JSON."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isprintable() and _fits(c) else json.dumps(c)[1:-1] for c in text)
    write_line(sys.stdout, text)


def _fits(character: str) -> bool:
    """Whether standard output can show a character."""
    if character.isascii():
        return True
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """A command: our errors become one line and an exit code; a traceback only with ``--debug``."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        debug = bool(kwargs.get("debug"))
        try:
            with warnings_as_lines(), interrupts_are_kept():
                function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; nothing half-written was left behind")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader has gone; let the exit flush in peace
            raise typer.Exit(BROKEN_PIPE) from None
        except typer.Exit:
            raise
        except Exception as error:  # every way to fail ends here, as one line
            if debug:
                raise
            say(f"error: {describe(error)}")
            raise typer.Exit(code_of(error)) from None

    return run


def code_of(error: Exception) -> int:
    """2 when another request is needed, 1 when the machine or a file is at fault."""
    return USAGE if isinstance(error, InputError | ConfigError) else ERROR


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Our warnings as single lines on stderr; those of other libraries stay quiet unless Python is told."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("always", ".* is called .* now; the old name", FutureWarning)
        said: set[str] = set()

        def show(message: Warning | str, *rest: object, **more: object) -> None:
            line = on_one_line(str(message))
            if line not in said:
                said.add(line)
                say(f"warning: {line}")

        warnings.showwarning = show
        yield
