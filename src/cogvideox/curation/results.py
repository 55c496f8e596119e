"""Read what a curation wrote, and check it: the folder may come from others, and its values go into an HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogvideox.clip_folders.parquet import open_parquet, parquet_errors
from cogvideox.errors import InputError, MediaError
from cogvideox.files import short
from cogvideox.files.jsonl import read_json_lines
from cogvideox.files.structured import read_json

SUMMARY, DROPPED, TABLE = "summary.json", "dropped.jsonl", "clips.parquet"
MOST_SUMMARY = 64 << 20  # bytes
MOST_DROPPED = 64 << 30  # bytes; read line by line
Shape = Any
"""A test of one value, a list of one shape for every entry, a dict of shapes for named entries."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _maybe(shape: Shape) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value, shape)


def _by_name(shape: Shape) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(fits(each, shape) for each in value.values())


def _is_id(value: Any) -> bool:
    """Also the name of a file, so nothing else may pass."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{1,64}", value) is not None


RULE = {"score": _text, "least": _maybe(_number), "most": _maybe(_number)}
SUMMARY_SHAPE = {
    **dict.fromkeys(("films", "clips", "kept", "copied"), _count),
    **dict.fromkeys(("seconds", "kept_seconds", "kept_bytes"), _number),
    "recipe": _text,
    "dropped": [{"step": _text, "reason": _text, "clips": _count}],
    "thresholds": [{"stages": [{"name": _text, "rules": [RULE]}]}],
    "stages": _by_name(_count),
    "samples": _by_name([_is_id]),
}
DROPPED_SHAPE = {
    "id": _is_id,
    "source": {"path": _text},
    "span": _maybe({"start": _number, "end": _number}),
    "dropped": {"step": _text, "reason": _text, "detail": _text},
    "scores": _by_name(_maybe(_number)),
}
KEPT_SHAPE = {
    "id": _is_id,
    **dict.fromkeys(("path", "caption", "record"), _text),
    **dict.fromkeys(("start", "end"), _number),
}


def read_summary(out: Path) -> dict[str, Any]:
    """What ``curate`` wrote last. Raises InputError when the folder holds no finished curation, or another's."""
    file = out / SUMMARY
    if not file.exists():
        raise InputError(
            f"{out}: no {SUMMARY}; it is no curated folder, or its run has not finished: run it again"
        )
    summary = read_json(file, root=out, most=MOST_SUMMARY, error=InputError)
    _check(summary, SUMMARY_SHAPE, str(file))
    return summary


def dropped_rows(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of dropped.jsonl. Raises InputError, naming file and line."""
    for where, row in read_json_lines(out / DROPPED, root=out, most=MOST_DROPPED):
        _check(row, DROPPED_SHAPE, where)
        yield row


def kept_rows(out: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of clips.parquet, a thousand in memory. Raises InputError, naming the row."""
    file, number = out / TABLE, 0
    with _table(out) as table:
        missing = set(columns or ()) - set(table.schema_arrow.names)
        if missing:
            raise InputError(f"{file}: no column {', '.join(sorted(missing))}; curate again")
        for batch in table.iter_batches(1000, columns=columns):
            for row in batch.to_pylist():
                number += 1
                shape = {name: KEPT_SHAPE[name] for name in row if name in KEPT_SHAPE}
                scores = {name: _maybe(_number) for name in row if name.startswith("score.")}
                _check(row, shape | scores, f"{file}, row {number}")
                yield row


def score_names(out: Path) -> list[str]:
    """The columns of scores in clips.parquet."""
    with _table(out) as table:
        return [name for name in table.schema_arrow.names if name.startswith("score.")]


@contextmanager
def _table(out: Path) -> Iterator[Any]:
    """clips.parquet, open. Raises InputError, DependencyError without pyarrow."""
    try:
        table = open_parquet(out / TABLE, out)
    except MediaError as error:
        raise InputError(f"{error}; or curate again") from None
    try:
        with table:
            yield table
    except parquet_errors() as error:
        raise InputError(f"{out / TABLE}: cannot be read ({short(str(error))}); curate again") from None


def fits(value: Any, shape: Shape) -> bool:
    """Whether a value has a shape; entries that no shape names do not matter."""
    return _misfit(value, shape, "") is None


def _misfit(value: Any, shape: Shape, where: str) -> str | None:
    """Where a value leaves its shape; None when it fits."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return where or "the whole"
        for key, inner in shape.items():
            name = f"{where}.{key}" if where else key
            found = _misfit(value[key], inner, name) if key in value else name
            if found is not None:
                return found
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return where
        found = (_misfit(each, shape[0], where) for each in value)
        return next((misfit for misfit in found if misfit is not None), None)
    return None if shape(value) else where


def _check(value: Any, shape: Shape, where: str) -> None:
    misfit = _misfit(value, shape, "")
    if misfit is not None:
        raise InputError(f"{where}: {misfit} is not what curate writes there; curate again")
