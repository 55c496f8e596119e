"""Files on the ground floor: reading small texts, settings and tables safely; endings and column names, each once.

| file | what it does |
|---|---|
| ``text`` | read a small text of anybody's: regular file, no link out, bounded, encoding named |
| ``structured`` | JSON and YAML with bounded depth, size and aliases; ``short``: a bounded repr for messages |
| ``atomic`` | the one way to write a whole file or folder, to discard one, to sweep what killed writers left |
| ``maker``, ``exchange`` | for it: the mark of who writes; two names change places in one step |
| ``lock`` | one process at a time in a folder |
| ``walk`` | every file below a folder by its ending, whatever is between |
| ``page`` | the frame of every page that is written: nothing runs, nothing is fetched |
| ``media`` | endings of videos and pictures; names of caption, file and score columns |
"""

from __future__ import annotations

from cogvideox.files.structured import dump_yaml, parse_json, parse_yaml, read_json, read_yaml, short
from cogvideox.files.text import (
    check_link,
    decoded,
    inside,
    open_regular,
    read_small_bytes,
    read_small_text,
    root_of_links,
    shown,
)
from cogvideox.files.walk import files_below

__all__ = [
    "check_link",
    "decoded",
    "dump_yaml",
    "files_below",
    "inside",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_small_bytes",
    "read_small_text",
    "read_yaml",
    "root_of_links",
    "short",
    "shown",
]
