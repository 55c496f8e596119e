"""A command line that cannot be understood ends in one line, as all other bad input does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cogvideox.progress import on_one_line, say

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
