"""Prompt suites, as data in ``prompts/``: VBench's short and long prompts, CogVideoX's gallery, our compositions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from cogvideox.errors import InputError, suggest

SUITES = ("vbench", "vbench-long", "gallery", "compositional")


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt: the text to generate from, the short text it is known by, the dimensions of VBench that it tests.

    ``facts``: VBench's auxiliary_info, flattened: object, scene, appearance_style, ...
    """

    id: str
    prompt: str
    short: str
    dimensions: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@cache
def prompt_suite(name: str) -> tuple[SuitePrompt, ...]:
    """One of vbench (946), vbench-long (the same, up-sampled), gallery (12), compositional (70). Raises InputError."""
    if name not in SUITES:
        raise InputError(f"prompts {name!r}: not one of {', '.join(SUITES)}{suggest(name, SUITES)}")
    if name in ("vbench", "vbench-long"):
        return _vbench(long=name == "vbench-long")
    rows = [json.loads(line) for line in _text(f"{name}.jsonl").splitlines()]
    return tuple(
        SuitePrompt(str(row.get("id", f"{name}-{number:02d}")), row["prompt"], row["prompt"])
        for number, row in enumerate(rows)
    )


def _vbench(long: bool) -> tuple[SuitePrompt, ...]:
    rows = [json.loads(line) for line in _text("vbench.jsonl").splitlines()]
    longer = _text("vbench_long.txt").splitlines()
    return tuple(
        SuitePrompt(
            f"vbench-{number:03d}",
            longer[number] if long else row["prompt_en"],
            row["prompt_en"],
            tuple(row["dimension"]),
            _flat(row.get("auxiliary_info", {})),
        )
        for number, row in enumerate(rows)
    )


def _flat(info: dict[str, Any]) -> dict[str, Any]:
    """{"scene": {"scene": {"scene": "alley"}}} -> {"scene": "alley"}."""
    flat: dict[str, Any] = {}
    for key, value in info.items():
        flat.update(_flat(value) if isinstance(value, dict) else {key: value})
    return flat


def _text(file: str) -> str:
    return (resources.files("cogvideox.evaluation") / "prompts" / file).read_text(encoding="utf-8")
