"""What a person or a script sees: results on stdout, everything else on stderr, one line per error; help by headings.

Exit codes: 0 done, 1 error, 2 asked for something that cannot be, 3 some items failed, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cogvideox.errors import ConfigError, InputError, describe
from cogvideox.progress import interrupts_are_kept, on_one_line, printable, say, write_line

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


NOT_UNDERSTOOD: Any = typer.BadParameter.__mro__[2]
"""The parser's root of exceptions; its own module has another name in every version of typer."""


class GroupedCommand(TyperCommand):
    """A verb whose help lists flags under headings: the ``rich_help_panel`` of each."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the flags of each heading, in the order in which headings first stand."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            heading = getattr(param, "rich_help_panel", None) or "Options"
            record = param.get_help_record(ctx)
            if record is not None:
                heading = "Arguments" if param.param_type_name == "argument" else heading
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class OneLineGroup(TyperGroup):
    """The verbs, with the parser's messages of several lines made one."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and end the process, unless ``standalone_mode`` is off."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except NOT_UNDERSTOOD as error:
            _tell(error)
            sys.exit(getattr(error, "exit_code", 2))
        except typer.Abort:
            say("aborted")
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _tell(error: Any) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # nothing was asked for: the help is the answer
        return
    context = getattr(error, "ctx", None)
    text = on_one_line(error.format_message()).rstrip(".")
    say(f"error: {text[:1].lower()}{text[1:]}; see {context.command_path if context else 'cogvideox'} --help")
