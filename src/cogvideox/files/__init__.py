"""Files on the ground floor: small texts and tables read safely, files and folders written whole or not at all.

| file | what it does |
|---|---|
| ``paths`` | where links lead, what lies in what, which files lie below; endings of videos and pictures |
| ``text`` | read a small text from untrusted sources: a regular file, bounded, in a known encoding |
| ``structured`` | JSON and YAML of bounded depth, size and aliases; ``short``: a bounded repr for messages |
| ``jsonl`` | read and write JSON lines |
| ``atomic`` | the one way to write a whole file or folder, to discard one, and to sweep what killed writers left |
| ``pidfile`` | which process writes in a staging folder, and whether it still lives |
| ``lock`` | one process at a time in a folder |
| ``digest`` | SHA-256 of files, folders and plain values |
| ``stored`` | tensors that stay in their file until they are needed |
| ``quantised`` | a weight in few bits that counts as a plain one |
| ``gguf_blocks`` | weights in llama.cpp's blocks, to numbers and back |
| ``page`` | the frame of every HTML page that is written: nothing in it runs, nothing is fetched |
"""

from __future__ import annotations

from cogvideox.files.paths import check_link, files_below, inside, lies_in, root_of_links, shown
from cogvideox.files.structured import dump_yaml, parse_json, parse_yaml, read_json, read_yaml, short
from cogvideox.files.text import decode_text, open_regular, read_small_bytes, read_small_text

__all__ = [
    "check_link", "decode_text", "dump_yaml", "files_below", "inside", "lies_in", "open_regular", "parse_json",
    "parse_yaml", "read_json", "read_small_bytes", "read_small_text", "read_yaml", "root_of_links", "short",
    "shown",
]  # fmt: skip
