"""Frozen settings, to and from YAML, with dotted overrides and errors that name the path.

A setting lives in one place: a pydantic field beside the code that reads it. Unknown keys are refused with a
suggestion, values are checked on entry, and what was resolved can be dumped whole next to an output. Numbers are
numbers: ``true``, text such as ``"10"``, infinity and NaN are refused where a setting is a number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cogvideox.errors import ConfigError, suggest
from cogvideox.files import dump_yaml, parse_yaml, read_yaml, short

DICT_KEY = "[key]"
"""What pydantic puts into the path of an error about a name in a group of any names."""
YES, NO = ("true", "yes", "on"), ("false", "no", "off")


def _strict(schema: CoreSchema, text: bool) -> CoreSchema:
    """The schema of one group of settings, its numbers and truth values checked before pydantic converts them."""
    number = _number_or_text if text else _number

    def walk(node: Any, inside: bool) -> Any:
        if isinstance(node, list | tuple):
            return type(node)(walk(inner, inside) for inner in node)
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        if kind == "model" and inside:  # a group in a group has been through here already
            return node
        inside = inside or kind == "model"
        kept = ("metadata", "serialization", "default", "config", "cls", "ref", "expected")
        node = {key: value if key in kept else walk(value, inside) for key, value in node.items()}
        if inside and kind in ("int", "float"):
            return core_schema.no_info_before_validator_function(number, node)
        if inside and kind == "bool":
            return core_schema.no_info_before_validator_function(_truth, node)
        return node

    return walk(schema, False)


def _number(value: Any) -> Any:
    """Raises for what pydantic would make a number of although it is none."""
    if isinstance(value, bool | str | bytes):
        raise PydanticCustomError("number", "Input should be a number")
    return value


def _number_or_text(value: Any) -> Any:
    """As ``_number``, for settings of lists that people type: text such as "9" is the number that it says."""
    return value if isinstance(value, str) else _number(value)


def _truth(value: Any) -> Any:
    """A truth value, or its word; 1 and 0 are numbers."""
    word = value.lower() if isinstance(value, str) and len(value) < 6 else ""
    if isinstance(value, bool) or word in YES + NO:
        return value if isinstance(value, bool) else word in YES
    raise PydanticCustomError("truth", "Input should be true or false")


class Config(BaseModel):
    """The base of every settings object: frozen, strict about names, readable from YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    numbers_as_text: ClassVar[bool] = False
    """Whether text such as "9" is read where a number belongs: in lists that people type, never in files of models."""

    renamed_settings: ClassVar[dict[str, str]] = {}
    """Old name of a setting of this class -> its name now. The old one is accepted, with a warning, for one release.

    A subclass inherits those of its bases and adds its own.
    """

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
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _strict(handler(source), cls.numbers_as_text)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        """The values under the names of now; a setting given under both names is an error."""
        renamed = _renamed_settings(cls)
        if not renamed or not isinstance(values, dict):
            return values
        given: dict[str, Any] = values
        named: dict[str, Any] = {}
        for key, value in given.items():
            name = renamed.get(key, key)
            if name != key:
                if name in values:
                    raise ValueError(f"{key} is the old name of {name}, and both are given; leave {key} out")
                _warn_of_old_name(key, name)
            named[name] = value
        return named

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
        values = parse_yaml(str(source), "settings") if is_text else read_yaml(source)
        if not isinstance(values, dict):
            where = "settings" if is_text else source
            raise ConfigError(f"{where}: expected 'name: value' lines, found {type(values).__name__}")
        return cls.parse(values, where="" if is_text else str(source))

    def to_yaml(self) -> str:
        """Everything, defaults included, as YAML."""
        return dump_yaml(self.model_dump(mode="json"))

    def override(self, settings: Sequence[str]) -> Self:
        """A copy with ``key.path=value`` settings applied; values are read as YAML."""
        values = self.model_dump()
        given: dict[tuple[str, ...], str] = {}  # path under the names of now -> path as it was written
        for setting in settings:
            path, found, text = setting.partition("=")
            if not found or not path:
                raise ConfigError(f"{short(setting)}: settings look like key.path=value")
            names = _names_of_now(type(self), path.split("."))
            if given.setdefault(tuple(names), path) != path:
                raise ConfigError(f"{path}: is also given as {given[tuple(names)]}; leave the old name out")
            value = parse_yaml(text, short_of(setting))
            _check_blanks(value, short_of(path))
            values = _set(values, names, value, short_of(path))
        result = type(self).parse(values)
        result.check_change(self, [".".join(names) for names in given])
        return result

    def changed(self, **settings: Any) -> Self:
        """A copy with some settings changed, checked as a new one is. Raises ConfigError.

        A dotted name reaches into a group: ``run.changed(steps=10, **{"optim.lr": 1e-4})``. The other settings of
        the group stay; a group given whole replaces the group.
        """
        values, inside = dict(self), dict[str, dict[str, Any]]()
        given: dict[str, str] = {}  # path under the names of now -> path as it was written
        for path, value in settings.items():
            names = _names_of_now(type(self), path.split("."))
            if given.setdefault(".".join(names), path) != path:
                raise ConfigError(
                    f"{path}: is also given as {given['.'.join(names)]}; leave the old name out"
                )
            if names[0] not in values:
                raise ConfigError(f"{short_of(path)}: unknown setting{suggest(names[0], values)}")
            if len(names) == 1:
                values[names[0]] = value
            else:
                inside.setdefault(names[0], {})[".".join(names[1:])] = value
        for key, some in inside.items():
            group = values[key]
            if isinstance(group, Config):
                try:
                    values[key] = group.changed(**some)
                except ConfigError as error:
                    raise ConfigError(f"{key}.{error}") from None
                continue
            for path, value in some.items():
                values[key] = _set(values[key], path.split("."), value, f"{key}.{path}")
        result = type(self)(**values)
        result.__pydantic_fields_set__ = self.model_fields_set | {path.split(".")[0] for path in given}
        result.check_change(self, list(given))
        return result

    def check_change(self, before: Self, names: Sequence[str]) -> None:
        """Called with what ``override`` and ``changed`` began with, and the dotted settings that they changed.

        A class refuses a change without effect here. Raises ConfigError.
        """


def short_of(text: str) -> str:
    """What a person typed, on one line and cut where it is too long for a message."""
    text = "".join(" " if each in "\n\r\t\v\f" else each for each in text[:100])
    return text if len(text) <= 80 else text[:77] + "..."


def _check_blanks(value: Any, path: str) -> None:
    """Raises ConfigError for {a:1}, which is one name without a value in YAML."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if inner is None and isinstance(key, str) and ":" in key:
            name, _, rest = key.partition(":")
            raise ConfigError(
                f"{path}: {short(key)} has no value; write a blank after the colon: {{{name}: {rest}}}"
            )
        _check_blanks(inner, f"{path}.{key}")


def _warn_of_old_name(old: str, new: str) -> None:
    warnings.warn(
        f"setting {old}: is called {new} now; the old name will be refused by the next release",
        FutureWarning,
        stacklevel=4,
    )


@cache
def _renamed_settings(model: type[BaseModel]) -> dict[str, str]:
    """Old name -> name of now, of a class and its bases."""
    renamed: dict[str, str] = {}
    for base in reversed(model.__mro__):
        renamed |= vars(base).get("renamed_settings", {})
    return renamed


def _names_of_now(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """A path of settings with each old name replaced by the name of now, with a warning."""
    names: list[str] = []
    groups = [model]
    for key in path:
        for group in groups:
            renamed = _renamed_settings(group)
            if key in renamed and not any(key in each.model_fields for each in groups):
                _warn_of_old_name(".".join([*names, key]), ".".join([*names, renamed[key]]))
                key = renamed[key]
        names.append(key)
        if not key.isdecimal():  # the index of a list: its entries are the groups
            fields = [group.model_fields[key] for group in groups if key in group.model_fields]
            groups = [inner for field in fields for inner in _groups_in(field.annotation)]
    return names


def _set(values: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """``values`` with one setting changed; a step of the path is a name, or the index in a list from 0."""
    if not path:
        return value
    if isinstance(values, Config):
        inner = ".".join(path)
        try:
            return values.changed(**{inner: value})
        except ConfigError as error:
            raise ConfigError(f"{whole.removesuffix(inner)}{error}") from None
    key, rest = path[0], path[1:]
    if isinstance(values, list | tuple):
        if not (key.isascii() and key.isdecimal()) or len(key) > 9 or int(key) >= len(values):
            raise ConfigError(f"{whole}: {short(key)}: this list has {len(values)} entries, counted from 0")
        index = int(key)
        return [*values[:index], _set(values[index], rest, value, whole), *values[index + 1 :]]
    if not isinstance(values, dict):
        raise ConfigError(
            f"{whole}: what {short(key)} would be in is one value ({short(values)}), not a group"
        )
    if key not in values:
        what = "there is no group" if rest else "unknown setting"
        raise ConfigError(f"{whole}: {what} {short(key)}{suggest(key, values)}")
    return {**values, key: _set(values[key], rest, value, whole)}


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    names, groups = _walk(model, first["loc"])
    path = ".".join(map(short_of, names))
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known = {name for group in groups for name in group.model_fields}
        return f"{prefix}{path}: unknown setting{suggest(names[-1], known)}"
    text = first["msg"].removeprefix("Value error, ")
    if names and names[-1] == DICT_KEY:  # of a group whose names are values of their own
        key, path = str(first.get("input")), ".".join(map(short_of, names[:-2]))
        known = first.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
        return f"{prefix}{path}: {short(key)}: {_uncapitalised(text)}{suggest(key, known)}"
    if names and text.startswith(f"{names[-1]} "):  # an error that names the setting itself
        path = ".".join(map(short_of, names[:-1]))
    given = "" if first["type"] in ("missing", "value_error") else f", got {short(first.get('input'))}"
    return f"{prefix}{path + ': ' if path else ''}{text}{given}"


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _walk(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as people write it, and the groups whose settings its last name was looked for in.

    Inside a union pydantic adds a step that nobody wrote: the tag, or the name of the class, of the member it tried.
    """
    names: list[str] = []
    groups = inside = [model]
    for step in location:
        tagged = [group for group in inside if len(inside) > 1 and _is_tag(group, step)]
        if tagged:
            inside = tagged
            continue
        if isinstance(step, str) and step.startswith(
            "function-before["
        ):  # a number or truth value in a union
            continue
        names.append(str(step))
        if isinstance(step, str):
            groups = inside
            fields = [group.model_fields[step] for group in groups if step in group.model_fields]
            inside = [inner for field in fields for inner in _groups_in(field.annotation)]
    return names, groups


def _is_tag(group: type[BaseModel], step: int | str) -> bool:
    return step == group.__name__ or any(field.default == step for field in group.model_fields.values())


def _groups_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _groups_in(inner)
