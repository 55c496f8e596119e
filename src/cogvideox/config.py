"""Frozen settings, to and from YAML, with dotted overrides and errors that name the path.

A setting lives in one place: a pydantic field beside the code that reads it. Unknown keys are refused with a
suggestion, values are checked on entry, and what was resolved can be dumped whole next to an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cogvideox.errors import ConfigError, suggest


class Config(BaseModel):
    """The base of every settings object: frozen, strict about names, readable from YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **values: Any) -> None:
        """From keywords; raises ConfigError that names the path of the first mistake."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error, "")) from None

    # Told that this is its own, pydantic does not call it for a Config inside a Config: a mistake in there is then
    # one error of the outermost, with the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Build from plain values; raises ConfigError that names the path of the first mistake."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error, where)) from None

    @classmethod
    def from_yaml(cls, source: str | Path) -> Self:
        """Read a YAML file, or YAML text when ``source`` is a string with a line break."""
        is_text = isinstance(source, str) and "\n" in source
        try:
            text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
            values = yaml.safe_load(text)
        except FileNotFoundError:
            raise ConfigError(f"{source}: no such file; check the path") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{source}: cannot be read as YAML: {_one_line(error)}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected 'name: value' lines, found {type(values).__name__}")
        return cls.parse(values, where="" if is_text else str(source))

    def to_yaml(self) -> str:
        """Everything, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def override(self, settings: Sequence[str]) -> Self:
        """A copy with ``key.path=value`` settings applied; values are read as YAML."""
        values = self.model_dump()
        for setting in settings:
            path, found, text = setting.partition("=")
            if not found or not path:
                raise ConfigError(f"{setting!r}: settings look like key.path=value")
            values = _set(values, path.split("."), _read(path, text), path)
        return type(self).parse(values)


def _read(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}={text}: the value cannot be read as YAML: {_one_line(error)}") from None


def _set(values: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """``values`` with one setting changed; a step of the path is a name, or the place in a list from 0."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(values, list | tuple):
        if not key.isdecimal() or int(key) >= len(values):
            raise ConfigError(f"{whole}: {key!r}: this list has {len(values)} entries, counted from 0")
        place = int(key)
        return [*values[:place], _set(values[place], rest, value, whole), *values[place + 1 :]]
    if not isinstance(values, dict):
        raise ConfigError(f"{whole}: what {key!r} would be in is one value ({values!r}), not a group")
    if key not in values:
        what = "there is no group" if rest else "unknown setting"
        raise ConfigError(f"{whole}: {what} {key!r}{suggest(key, values)}")
    return {**values, key: _set(values[key], rest, value, whole)}


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    names, groups = _walk(model, first["loc"])
    path = ".".join(names)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known = {name for group in groups for name in group.model_fields}
        return f"{prefix}{path}: unknown setting{suggest(names[-1], known)}"
    text = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f", got {first.get('input')!r}"[:120]
    return f"{prefix}{path + ': ' if path else ''}{text}{given}"


def _walk(model: type[BaseModel], place: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as people write it, and the groups whose settings its last name was looked for in.

    Inside a union pydantic adds a step that nobody wrote: the tag, or the name of the class, of the member it tried.
    """
    names: list[str] = []
    groups = inside = [model]
    for step in place:
        tagged = [group for group in inside if len(inside) > 1 and _is_tag(group, step)]
        if tagged:
            inside = tagged
            continue
        names.append(str(step))
        if isinstance(step, str):
            groups = inside
            fields = [group.model_fields[step] for group in groups if step in group.model_fields]
            inside = [found for field in fields for found in _groups_in(field.annotation)]
    return names, groups


def _is_tag(group: type[BaseModel], step: int | str) -> bool:
    return step == group.__name__ or any(field.default == step for field in group.model_fields.values())


def _groups_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _groups_in(inner)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
