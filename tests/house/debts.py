"""What the house tests still forgive, by file. These lists only shrink; nothing is ever added.

    python tests/house/debts.py        removes what is no longer needed (run it when test_names says so)

A line is 'file: names' (or 'package: modules'). A file that moves takes its line along: rename it by hand if the move
did not. A merge conflict here: keep either side, then run the command.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

QUOTES = '"' * 3

BANNED_NAMES = """
"""
"""Modules, functions, attributes, settings and parameters that still have a name of ``reading.BANNED``."""

UNDOCUMENTED = """
"""
"""Public names that no docstring explains by itself."""

UNMAPPED = """
"""
"""Modules that the map in their package's ``__init__`` does not name."""

CYCLES = """
"""
"""Packages in which modules import each other, some of them only for type checking."""


def table(text: str) -> dict[str, set[str]]:
    """'file: names' lines as file -> names; a file may have several lines."""
    result: dict[str, set[str]] = {}
    for line in text.strip().splitlines():
        file, names = line.split(": ", 1)
        result.setdefault(file, set()).update(names.split())
    return result


def written(debts: Mapping[str, Iterable[str]]) -> str:
    """The lines of a table, sorted and not too long."""
    lines = []
    for file, names in sorted(debts.items()):
        shown = textwrap.wrap(" ".join(sorted(names)), 110 - len(file), break_on_hyphens=False)
        lines += [f"{file}: {some}\n" for some in shown]
    return "".join(lines)


def paid(owed: Mapping[str, set[str]], today: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What is listed and no longer needed."""
    rest = {file: names - today.get(file, set()) for file, names in owed.items()}
    return {file: names for file, names in rest.items() if names}


def new(owed: Mapping[str, set[str]], today: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What is not listed and stands in the source."""
    rest = {file: names - owed.get(file, set()) for file, names in today.items()}
    return {file: names for file, names in rest.items() if names}


def pay(measured: Mapping[str, Callable[[], dict[str, set[str]]]], fill: bool = False) -> None:
    """Rewrite this file's tables without what is paid (``fill``: with everything of today, for the first time)."""
    path = Path(__file__)
    text = path.read_text(encoding="utf-8")
    for name, measure in measured.items():
        today, owed = measure(), table(globals()[name])
        kept = today if fill else {file: names & today.get(file, set()) for file, names in owed.items()}
        before, _, rest = text.partition(f'\n{name} = """\n')
        text = f'{before}\n{name} = """\n{written(kept)}{rest[rest.index(QUOTES) :]}'
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from house.reading import MEASURED

    pay(MEASURED, fill=sys.argv[1:] == ["--first-time"])
