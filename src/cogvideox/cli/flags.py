"""Flags made from the fields of a settings class: one declaration, one help text, every setting reachable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from cogvideox.config import Config


def with_flags(config: type[Config], groups: Mapping[str, str]) -> Callable[..., Callable[..., None]]:
    """A decorator that gives a command one flag for each field of ``config``.

    The command has a parameter ``settings``, which receives the values of the flags that were given, by field.
    ``groups``: heading in the help -> names of its fields with spaces between; they stand in this order.
    """
    flags = {
        name: _flag(name, config.model_fields[name], group)
        for group, names in groups.items()
        for name in names.split()
    }

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function, eval_str=True).parameters)
        del own["settings"]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            given = {name: value for name in flags if (value := values.pop(name, None)) is not None}
            function(settings=given, **values)

        parameters = [*flags.values(), *own.values()]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature looks for
            [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        )
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _flag(name: str, field: FieldInfo, group: str) -> inspect.Parameter:
    """The parameter of a command for one field; None when the flag is not given."""
    kind, choices = _kind_of(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and field.default is True:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    option = typer.Option(
        flag,
        help=_help_of(field),
        metavar="|".join(map(str, choices)) or None,
        rich_help_panel=group,
        show_default=False,
    )
    annotation = Annotated[Optional[kind], option]  # noqa: UP045  made at run time
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind_of(annotation: Any) -> tuple[type, tuple[Any, ...]]:
    """The type that the command line reads, and the values it may have where they are listed."""
    kinds = [each for each in get_args(annotation) or (annotation,) if each is not NoneType]
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    assert len(kinds) == 1 and kinds[0] in (str, int, float, bool), annotation  # no other fields so far
    return kinds[0], ()


def _help_of(field: FieldInfo) -> str:
    text, default = field.description or "", field.default
    if default in (None, "", False) or "default" in text:
        return text
    return f"{text}; default: {'on' if default is True else default}"
