"""Two lists side by side: the n-th line of one names a clip, the n-th of the other says what it shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cogvideox.clip_folders.columns import TableRow, line_label
from cogvideox.errors import ConfigError
from cogvideox.files import read_small_text
from cogvideox.files.jsonl import lines_of

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
