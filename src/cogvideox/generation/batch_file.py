"""The file of a batch: one prompt, one JSON object or one CSV row per video, with the names of the flags as keys."""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path
from typing import Any, get_args

from cogvideox.errors import CogVideoXError, ConfigError, MediaError, suggest
from cogvideox.files import parse_json, read_small_text, short
from cogvideox.files.jsonl import lines_of
from cogvideox.generation.options import GenerateOptions

MOST_BYTES = 64 << 20
OF_THE_RUN = ("batch", "debug", "device", "dry_run", "enhance", "enhance_model", "json", "memory", "memory_limit",
              "no_metadata", "out", "overwrite", "preview")  # fmt: skip
"""Flags of the command line that a line cannot have."""
OF_A_LINE = ("continue", "dtype", "lora", "lora_alpha", "model", "name")
"""Keys of a line besides the fields of GenerateOptions."""
ELSEWHERE = {
    "out": "a line is named by its key name",
    "enhance": "a line's prompt is written as it should be",
}
YES, NO = {"true", "yes", "1"}, {"false", "no", "0"}


def read_lines(source: Path) -> list[tuple[int, dict[str, Any] | CogVideoXError]]:
    """Every line that says something, by its number from 1: its values, or what is wrong with it.

    Raises MediaError for a file that cannot be read, ConfigError for one that holds nothing or whose header is wrong.
    """
    text = read_small_text(source, most=MOST_BYTES, error=MediaError)
    lines = _rows(source, text) if source.suffix.lower() == ".csv" else _lines(source, text)
    if not lines:
        raise ConfigError(f"{source}: holds no prompts; write one per line")
    return lines


def _lines(source: Path, text: str) -> list[tuple[int, dict[str, Any] | CogVideoXError]]:
    found: list[tuple[int, dict[str, Any] | CogVideoXError]] = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append((number, {"prompt": line.strip()}))
            continue
        values = parse_json(line, f"{source}: line {number}", error=ConfigError)
        try:
            found.append((number, named_as_options(values)))
        except CogVideoXError as error:
            found.append((number, error))
    return found


def _rows(source: Path, text: str) -> list[tuple[int, dict[str, Any] | CogVideoXError]]:
    """A CSV with a header of the flags' names; an empty cell says nothing."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: list[tuple[int, dict[str, Any] | CogVideoXError]] = []
    try:
        header = next(reader, [])
        try:
            named_as_options(dict.fromkeys(header))
        except CogVideoXError as error:
            raise ConfigError(f"{source}: line 1: {error}") from None
        if len({key_of(name) for name in header}) != len(header):
            raise ConfigError(f"{source}: line 1: a column stands twice; keep one")
        before = reader.line_num
        for row in reader:
            number, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header):
                fields = f"{len(row)} fields, the header has {len(header)}"
                found.append((number, ConfigError(f"{fields}; put a prompt with commas in quotes")))
                continue
            cells = {name: cell for name, cell in zip(header, row, strict=False) if cell.strip()}
            try:
                found.append((number, named_as_options(cells)))
            except CogVideoXError as error:
                found.append((number, error))
    except csv.Error as error:
        raise ConfigError(f"{source}: line {reader.line_num}: not CSV ({error}); correct it") from None
    return found


def named_as_options(values: dict[str, Any]) -> dict[str, Any]:
    """A line's values under the names of the options; flags are written with ``-`` or ``_``.

    Raises ConfigError for a name that is no flag, with a suggestion, and for a flag of the whole run.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = key_of(name)
        if key in OF_THE_RUN:
            why = ELSEWHERE.get(key, "give it on the command line")
            raise ConfigError(f"{short(name)}: is a flag of the whole run; {why}")
        if key not in line_keys():
            hint = suggest(key, line_keys())
            raise ConfigError(f"{short(name)}: unknown setting{hint}; the keys are the names of the flags")
        if isinstance(value, str) and key in (*_fields_of(bool), "continue"):
            value = _switch(name, value)
        if isinstance(value, str) and key in _fields_of(int, float):
            value = _number(value)
        if key == "continue":
            if value is None or value is False:
                continue
            if value is not True:
                raise ConfigError(f"{short(name)} {short(value)}: write true or false")
            key, value = "video_use", "continue"
        if key in found:
            raise ConfigError(f"{short(name)}: stands twice; keep one")
        found[key] = value
    return found


def key_of(name: str) -> str:
    """``--negative-prompt``, ``Negative_Prompt`` -> ``negative_prompt``."""
    return name.strip().lstrip("-").replace("-", "_").lower()


def _switch(name: str, text: str) -> bool:
    if text.strip().lower() not in YES | NO:
        raise ConfigError(f"{short(name)} {short(text)}: write true or false")
    return text.strip().lower() in YES


def _number(text: str) -> Any:
    """The number that a text is, as the command line reads it; other text as it is, for the options to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@cache
def _fields_of(*types: type) -> frozenset[str]:
    """Options whose value is of one of these types."""
    fields = GenerateOptions.model_fields.items()
    return frozenset(
        name for name, field in fields if set(types) & {field.annotation, *get_args(field.annotation)}
    )


@cache
def line_keys() -> frozenset[str]:
    """What a line may say: every option, model, adapters and precision, and the name of its file."""
    return frozenset({*GenerateOptions.model_fields, *OF_A_LINE})
