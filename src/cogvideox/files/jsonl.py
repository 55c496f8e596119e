"""JSON lines: one JSON value on each line of a text, as metadata files, records and transcripts are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogvideox.errors import CogVideoXError, InputError
from cogvideox.files.atomic import atomic_file
from cogvideox.files.paths import shown
from cogvideox.files.structured import parse_json
from cogvideox.files.text import MOST_TABLE_BYTES, open_regular

MOST_LINE = 16 << 20  # bytes of one line


def lines_of(text: str) -> list[str]:
    """Lines of a text, cut at ``\\n`` alone: ``splitlines`` also cuts at U+2028 and others that stand in captions."""
    return text.removesuffix("\n").split("\n") if text else []


def read_json_lines(
    path: str | Path,
    *,
    root: str | Path | None = None,
    most: int = MOST_TABLE_BYTES,
    error: type[CogVideoXError] = InputError,
) -> Iterator[tuple[str, Any]]:
    """(where, value) of each line that is not blank, read line by line; ``where`` is ``file:number``, for messages.

    root: the folder that links must not lead out of. Raises ``error`` for what is no plain file of at most ``most``
    bytes, and for a line that is too long, not UTF-8 or not JSON.
    """
    with open_regular(path, root=root, most=most, error=error) as stream:
        number = 0
        while line := stream.readline(MOST_LINE):
            number += 1
            where = f"{shown(str(path))}:{number}"
            if len(line) >= MOST_LINE:
                raise error(f"{where}: a line of more than {MOST_LINE >> 20} MiB; shorten it")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as problem:
                raise error(f"{where}: not UTF-8 ({problem.reason}); save it as UTF-8") from None
            if text:
                yield where, parse_json(text, where, error=error)


@contextmanager
def json_lines_writer(target: Path) -> Iterator[Callable[[Any], None]]:
    """Yield ``add(value)``, which writes one compact ASCII line; the file appears when the block ends without an error.

    Raises OutputError.
    """
    with atomic_file(target, overwrite=True) as temporary, temporary.open("wb") as stream:

        def add(value: Any) -> None:
            stream.write(compact_json(value) + b"\n")

        yield add


def compact_json(value: Any) -> bytes:
    """JSON in ASCII without spaces: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
