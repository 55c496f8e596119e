"""JSON and YAML from files that others may have written: data only, bounded in size, depth and repetition.

Beyond what the parsers themselves refuse: a key that stands twice, NaN and Infinity, nesting deeper than
``MOST_DEPTH``, YAML aliases that unfold to more than ``MOST_NODES`` values or to themselves. YAML is read by the rules
of version 1.2, so ``1:30`` and dates are text, ``1e-4`` is a number, and only ``true`` and ``false`` are truth values.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cogvideox.errors import CogVideoXError, ConfigError
from cogvideox.files.text import MOST_BYTES, read_small_text, shown

MOST_DEPTH = 64
MOST_NODES = 100_000
MOST_DIGITS = 400  # of one number; Python itself refuses integers beyond 4,300 digits, slowly below

_Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where PyYAML was built with it
_short = reprlib.Repr()
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = 4
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlevel = 3


def short(value: Any, most: int = 120) -> str:
    """A repr of at most ``most`` characters, made without walking the whole value: for messages about any input."""
    try:
        text = _short.repr(value)
    except ValueError:  # Python writes out no integer beyond 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."


def read_json(
    path: str | Path,
    *,
    root: str | Path | None = None,
    most: int = MOST_BYTES,
    nan_is_none: bool = False,
    error: type[CogVideoXError] = ConfigError,
) -> Any:
    """The value in a JSON file; see ``parse_json``. Raises ``error`` naming file and line."""
    text = read_small_text(path, root=root, most=most, error=error)
    return parse_json(text, shown(str(path)), nan_is_none=nan_is_none, error=error)


def parse_json(
    text: str, where: str, *, nan_is_none: bool = False, error: type[CogVideoXError] = ConfigError
) -> Any:
    """The value of a JSON text; ``where`` names it in messages. Raises ``error``.

    nan_is_none: NaN and Infinity, which Python writes for missing numbers in tables, are None instead of an error.
    """
    rules = _JsonRules(where, nan_is_none, error)
    try:
        values = json.loads(
            text,
            object_pairs_hook=rules.pairs,
            parse_constant=rules.constant,
            parse_int=partial(rules.number, int),
            parse_float=partial(rules.number, float),
        )
    except CogVideoXError:
        raise
    except RecursionError:
        raise error(f"{where}: nested too deeply; the most is {MOST_DEPTH} levels") from None
    except ValueError as problem:
        raise error(f"{where}: not JSON ({' '.join(str(problem).split())[:120]}); correct it") from None
    _check_depth(values, where, error)
    return values


@dataclass(frozen=True)
class _JsonRules:
    """What is refused beyond what Python's parser refuses."""

    where: str
    nan_is_none: bool
    error: type[CogVideoXError]

    def pairs(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) != len(items):
            twice = next(name for name, many in Counter(name for name, _ in items).items() if many > 1)
            raise self.error(f"{self.where}: the key {short(twice)} stands twice in one object; keep one")
        return values

    def constant(self, name: str) -> None:
        if not self.nan_is_none:
            raise self.error(f"{self.where}: {name} is not a number that JSON knows; write a finite number")

    def number(self, kind: type, digits: str) -> Any:
        if len(digits) > MOST_DIGITS:
            raise self.error(f"{self.where}: a number of {len(digits):,} digits; the most is {MOST_DIGITS}")
        value = kind(digits)
        if value in (float("inf"), float("-inf")):
            raise self.error(f"{self.where}: the number {short(digits)} is too large; write a finite number")
        return value


def _check_depth(values: Any, where: str, error: type[CogVideoXError]) -> None:
    level: list[Any] = [values]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise error(f"{where}: nested too deeply; the most is {MOST_DEPTH} levels")


def read_yaml(path: str | Path, *, most: int = MOST_BYTES, error: type[CogVideoXError] = ConfigError) -> Any:
    """The value in a YAML file. Raises ``error`` naming the file and, where known, line and column."""
    return parse_yaml(read_small_text(path, most=most, error=error), str(path), error=error)


def parse_yaml(text: str, where: str, *, error: type[CogVideoXError] = ConfigError) -> Any:
    """The value of a YAML text; ``where`` names it in messages. Raises ``error``."""
    try:
        _check_events(text, where, error)
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except CogVideoXError:
        raise
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where_in = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = getattr(problem, "problem", None) or str(problem)
        raise error(
            f"{where}: cannot be read as YAML{where_in}: {' '.join(str(reason).split())[:160]}"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: cannot be read as YAML: {' '.join(str(problem).split())[:160]}") from None


def _check_events(text: str, where: str, error: type[CogVideoXError]) -> None:
    """Walk the text once without building anything: depth, and how many values aliases would unfold to."""
    sizes: dict[str | None, int] = {}  # by anchor: values it stands for, aliases unfolded
    open_: list[tuple[str | None, int]] = []  # anchors and counts of the collections around
    total = 0
    for event in yaml.parse(text, Loader=_Safe):
        count = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_}:
                raise error(f"{where}: *{event.anchor} stands inside itself; write the values out")
            count = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count = 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_) >= MOST_DEPTH:
                raise error(f"{where}: nested too deeply; the most is {MOST_DEPTH} levels")
            open_.append((event.anchor, total))
            count = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = total - before
        total += count
        if total > MOST_NODES:
            raise error(f"{where}: more than {MOST_NODES:,} values with its aliases unfolded; shorten it")


class _Loader(_Safe):  # type: ignore[misc, valid-type]
    """Plain data by the rules of YAML 1.2, without keys that stand twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        seen = set()
        for index, key in enumerate(keys):
            if not isinstance(key, str | int | float | bool | None):
                raise _odd("a key must be one word", own[index])
            if key in seen:
                raise _odd(f"the key {short(key)} stands twice; keep one", own[index])
            seen.add(key)
        return super().construct_mapping(node, deep)


def _odd(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = loader.construct_scalar(node)
    if len(digits) > MOST_DIGITS:
        raise _odd("a number of too many digits", node)
    return int(digits, 16 if digits.lower().startswith("0x") else 10)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    digits = loader.construct_scalar(node).lower().lstrip("+")
    value = float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    if value != value or value in (float("inf"), float("-inf")):
        raise _odd(f"{digits} is not a finite number", node)
    return value


def dump_yaml(values: Any) -> str:
    """Plain values as YAML that ``parse_yaml`` and readers of YAML 1.1 both read back as they were."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text, such as ``1:30`` and ``1e5``."""


_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
):
    firsts = [c if c != "\0" else "" for c in first]
    for either in (_Loader, _Dumper):
        either.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), firsts)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)
