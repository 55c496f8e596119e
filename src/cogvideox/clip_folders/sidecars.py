"""The text beside one clip: ``<name>.txt``, else ``<name>.caption``, else the caption in ``<name>.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cogvideox.clip_folders.columns import Columns, row_of
from cogvideox.errors import InputError
from cogvideox.files import read_json, read_small_text

TEXTS = (".txt", ".caption")
MOST_RECORD = 4 << 20  # bytes of a record beside a video


def sidecar_caption(stem: Path, root: Path, columns: Columns | None = None) -> tuple[Any, str | None]:
    """(caption, why there is none): of the files called ``stem`` with another ending; (None, None) without such a file.

    stem: the path of the clip without its ending, or of its label. root: links must not lead out of it.
    """
    for ending in TEXTS:
        file = stem.with_name(stem.name + ending)
        if os.path.lexists(file):
            try:
                return read_small_text(file, root=root), None
            except InputError as error:
                return None, _reason(file, error)
    file = stem.with_name(stem.name + ".json")
    if not os.path.lexists(file):
        return None, None
    try:
        record = read_json(file, root=root, most=MOST_RECORD, nan_is_none=True, error=InputError)
    except InputError as error:
        return None, _reason(file, error)
    return caption_of_record(record, columns or Columns())


def caption_of_record(record: Any, columns: Columns) -> tuple[Any, str | None]:
    """(caption, why there is none) of a record: a caption at its top, or the prompt of our own records."""
    if not isinstance(record, dict):
        return None, None
    row = row_of(record, "", columns)[0]
    if row.problem or row.caption is not None:
        return (None, f"the record beside it {row.problem}") if row.problem else (row.caption, None)
    config = record.get("config")
    prompt = config.get("prompt") if isinstance(config, dict) else None
    return (prompt, None) if isinstance(prompt, str) else (None, None)


def _reason(file: Path, error: InputError) -> str:
    """The error in the words of one clip: the file's own name, without the folder."""
    text = str(error)
    _, found, reason = text.partition(f"{file.name}: ")
    return f"{file.name}: {reason}" if found else text
