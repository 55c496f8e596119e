"""Prompt suites as data: VBench's short and long prompts, the CogVideoX gallery, compositions of our own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from cogvideox.errors import InputError, suggest

SUITES = ("vbench", "vbench-long", "gallery", "compositional")


@dataclass(frozen=True)
class Asked:
    """One prompt: the words to generate from, the short words it is known by, and what a judge needs to know.

    ``facts`` are VBench's auxiliary_info, flattened: object, scene, appearance_style, ...
    """

    id: str
    prompt: str
    short: str
    dimensions: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@cache
def prompt_suite(name: str) -> tuple[Asked, ...]:
    """One of vbench (946), vbench-long (the same, up-sampled), gallery (12), compositional (70). Raises InputError."""
    if name not in SUITES:
        raise InputError(f"prompts {name!r}: not one of {', '.join(SUITES)}{suggest(name, SUITES)}")
    if name in ("vbench", "vbench-long"):
        return _vbench(long=name == "vbench-long")
    rows = [json.loads(line) for line in _text(f"{name}.jsonl").splitlines()]
    return tuple(
        Asked(str(row.get("id", f"{name}-{place:02d}")), row["prompt"], row["prompt"])
        for place, row in enumerate(rows)
    )


def _vbench(long: bool) -> tuple[Asked, ...]:
    rows = [json.loads(line) for line in _text("vbench.jsonl").splitlines()]
    longer = _text("vbench_long.txt").splitlines()
    return tuple(
        Asked(
            f"vbench-{place:03d}",
            longer[place] if long else row["prompt_en"],
            row["prompt_en"],
            tuple(row["dimension"]),
            _flat(row.get("auxiliary_info", {})),
        )
        for place, row in enumerate(rows)
    )


def _flat(info: dict[str, Any]) -> dict[str, Any]:
    """{"scene": {"scene": {"scene": "alley"}}} -> {"scene": "alley"}."""
    found: dict[str, Any] = {}
    for key, value in info.items():
        found.update(_flat(value) if isinstance(value, dict) else {key: value})
    return found


def _text(file: str) -> str:
    return (resources.files(__name__) / file).read_text(encoding="utf-8")
