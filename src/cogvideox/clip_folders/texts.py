"""Captions in text files: beside one clip, or in a list of which line n is about the clip in line n of another.

Beside a clip: ``<name>.txt``, else ``<name>.caption``, else the caption in ``<name>.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cogvideox.clip_folders.columns import Columns, TableRow, line_label, row_of
from cogvideox.errors import ConfigError, InputError
from cogvideox.files import read_json, read_small_text
from cogvideox.files.jsonl import lines_of

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


FILE_LISTS = ("videos.txt", "video.txt", "files.txt")
CAPTION_LISTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
MOST_BYTES = 256 << 20


def find_lists(root: Path) -> tuple[Path, list[Path]] | None:
    """The list of files and the lists of captions of a folder; None without one of each."""
    files = [root / name for name in FILE_LISTS if os.path.lexists(root / name)]
    captions = [root / name for name in CAPTION_LISTS if os.path.lexists(root / name)]
    return (files[0], captions) if files and captions else None


def list_rows(root: Path, files: Path, captions: list[Path]) -> Iterator[TableRow]:
    """Line n of ``files`` with line n of ``captions``; blank lines at the end are none.

    Raises ConfigError when it is not certain which caption is whose: other numbers of lines, two lists of captions that
    differ, another encoding.
    """
    names = _lines(root, files)
    texts, list_of = _lines(root, captions[0]), captions[0].name
    for other in captions[1:]:
        if _lines(root, other) != texts:
            raise ConfigError(
                f"{root}: holds {list_of} and {other.name}, which differ; choose one with task.data.captions="
            )
    if len(names) != len(texts):
        raise ConfigError(
            f"{root}: {files.name} has {len(names)} lines{_blank(names)}, {list_of} {len(texts)}{_blank(texts)}; "
            "they must be as many"
        )
    for number, (name, text) in enumerate(zip(names, texts, strict=True), 1):
        where = line_label(list_of, "line", number)
        if name.strip():
            yield TableRow(where, (name.strip(),), text)
        elif text.strip():
            blank = line_label(files.name, "line", number)
            yield TableRow(blank, problem=f"is blank, {where} is not; write the file, or remove both lines")


def _lines(root: Path, file: Path) -> list[str]:
    inside = root if file.is_relative_to(root) else None
    lines = lines_of(read_small_text(file, root=inside, most=MOST_BYTES, error=ConfigError))
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _blank(lines: list[str]) -> str:
    blank = [str(number) for number, line in enumerate(lines, 1) if not line.strip()]
    if not blank:
        return ""
    numbers = ", ".join(blank[:5]) + (", ..." if len(blank) > 5 else "")
    return f" (line {numbers} is blank)" if len(blank) == 1 else f" (lines {numbers} are blank)"
