"""Values that hold tensors, shown by their shapes: at a prompt and in a notebook the numbers say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

MOST = 4
"""Entries of a mapping or list that are shown."""
LONGEST = 200
"""Characters of any other value that are shown."""


class Brief:
    """A base of dataclasses (``repr=False``) whose fields hold tensors, arrays or networks, named by shape."""

    def __repr__(self) -> str:
        shown = (
            f"{each.name}={brief(getattr(self, each.name))}"
            for each in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if each.repr
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """A value on one line: float32[2, 3] for a tensor or an array, the class of a network, a few entries of many."""
    if isinstance(value, Mapping):
        return (
            "{" + _few([f"{key!r}: {brief(inner)}" for key, inner in _first(value.items())], len(value)) + "}"
        )
    if isinstance(value, list | tuple):
        inside = _few([brief(inner) for inner in _first(value)], len(value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if (shape := getattr(value, "shape", None)) is not None and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(shape)}"
    if hasattr(value, "state_dict"):
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= LONGEST or isinstance(value, Brief) else f"{text[:LONGEST]}..."


def _first(values: Any) -> list[Any]:
    return [value for value, _ in zip(values, range(MOST), strict=False)]


def _few(shown: list[str], count: int) -> str:
    return ", ".join([*shown, f"... {count} in all"] if count > len(shown) else shown)
