"""Every setting of a run: its dotted path, what it takes, its value in this run, and what it means."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cogvideox.config import Config
from cogvideox.training.recipes.table import RECIPES

SIMPLE = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


class SettingRow(NamedTuple):
    """One setting: ``path`` as it is written in ``key.path=value``, ``value`` as plain JSON."""

    path: str
    type: str
    value: Any
    meaning: str


def settings_table(config: Config, prefix: str = "") -> list[SettingRow]:
    """All settings of a config in the order they are declared; nested groups (not null), also in lists, are listed
    setting by setting."""
    return list(_walk(config, prefix))


def recipe_summaries() -> dict[str, str]:
    """Recipe name -> the first line of its docstring."""
    return {name: _first_line(getattr(make, "func", make).__doc__) for name, make in RECIPES.items()}


def _walk(config: Config, prefix: str) -> Iterator[SettingRow]:
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, path = getattr(config, name), f"{prefix}{name}"
        groups = value if isinstance(value, tuple | list) else (value,)
        if groups and all(isinstance(group, Config) for group in groups):
            for index, group in enumerate(groups):
                yield from _walk(group, f"{path}." if group is value else f"{path}.{index}.")
        else:
            yield SettingRow(path, type_name(field.annotation), plain[name], meaning(field))


def meaning(field: FieldInfo) -> str:
    """One line about a setting: its description, or the first line of its group's docstring."""
    if field.description:
        return field.description
    groups = [one for one in _members(field.annotation) if isinstance(one, type) and issubclass(one, Config)]
    return _first_line(groups[0].__doc__) if groups else ""


def type_name(annotation: Any) -> str:
    """The type of a setting in words: "number or null", "one of fp32, bf16", "list of text"."""
    names = dict.fromkeys(_type_name(member) for member in _members(annotation))
    return " or ".join(names)


def _type_name(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}" if len(inside) > 1 else str(inside[0])
    if origin in (tuple, list):
        entries = [type_name(each) for each in inside if each is not Ellipsis]
        counted = origin is tuple and Ellipsis not in inside
        return f"[{', '.join(entries)}]" if counted else f"list of {entries[0] if entries else 'values'}"
    if origin is dict:
        return f"{type_name(inside[0])}: {type_name(inside[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "group"
    return SIMPLE.get(kind, getattr(kind, "__name__", str(kind)))


def _members(annotation: Any) -> list[Any]:
    """The types of a union, in order; a type that is not a union is returned alone."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
