"""Frozen settings, to and from YAML, with dotted overrides and errors that name the path.

A setting lives in one place: a pydantic field beside the code that reads it. Unknown keys are refused with a
suggestion, values are checked on entry, and what was resolved can be dumped whole next to an output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cogvideox.errors import ConfigError, suggest


class Config(BaseModel):
    """The base of every settings object: frozen, strict about names, readable from YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

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
            _set(values, path.split("."), yaml.safe_load(text), path)
        return type(self).parse(values)

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any setting does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _set(values: dict[str, Any], path: Sequence[str], value: Any, whole: str) -> None:
    for key in path[:-1]:
        if not isinstance(values.get(key), dict):
            raise ConfigError(f"{whole}: there is no group {key!r}{suggest(key, values)}")
        values = values[key]
    if path[-1] not in values:
        raise ConfigError(f"{whole}: unknown setting{suggest(path[-1], values)}")
    values[path[-1]] = value


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}{path}: unknown setting{suggest(str(first['loc'][-1]), model.model_fields)}"
    text = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f", got {first.get('input')!r}"[:120]
    return f"{prefix}{path + ': ' if path else ''}{text}{given}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
