"""Named tensors of items by key, in a folder of safetensors files of many items each.

What is in the cache is what the headers of the files say. They also hold a digest of each tensor, compared at every
reading: damage on the disk is an error, never trained on.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from cogvideox.errors import MediaError, OutputError
from cogvideox.files.atomic import atomic_file

PER_FILE = 500  # items of one file, at most
HEAVY = 256 << 20  # bytes of one file, about
SECONDS = 30.0  # of work that a stop may lose at most: then what there is becomes a file

Items = dict[str, dict[str, Tensor]]
"""Tensors by key and name."""


class TensorCache:
    """Named tensors of items by key."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self.files: dict[str, Path] = {}
        self._read: set[Path] = set()
        self.read_new()

    def __contains__(self, key: str) -> bool:
        return key in self.files

    def read_new(self) -> None:
        """Take in the pieces that others have written meanwhile."""
        for file in sorted({*self.folder.glob("[!.]*.safetensors")} - self._read):
            self._take(file)

    def get(self, key: str, name: str, of: str = "") -> Tensor:
        """One tensor of one item, read from disk; ``of``: what messages call the item. Raises MediaError when it is
        damaged. Pieces of before there were digests are read as they are."""
        file, full = self.files[key], f"{key}/{name}"
        try:
            piece, digests = _open(file)
            value = piece.get_tensor(full)
        except (OSError, SafetensorError) as error:
            raise MediaError(
                f"{file}: {of or key}: {name} cannot be read ({error}); start again, what is lost is encoded again"
            ) from None
        if digests and digests.get(full) != _digest(full, value):
            raise MediaError(
                f"{file}: {of or key}: {name} is damaged, its digest differs from the one written with it; remove "
                "this file and start again, what it holds is encoded again"
            )
        return value

    def shape(self, key: str, name: str) -> tuple[int, ...]:
        """Its shape, from the header alone."""
        return self.shapes[key][name]

    @contextmanager
    def adding(self) -> Iterator[Callable[[Items], None]]:
        """Yields ``add(items)``, which writes files now and then; what was added is on disk however the block ends."""
        waiting, began = Items(), time.monotonic()

        def write() -> None:
            nonlocal waiting, began
            self.add(waiting)
            waiting, began = Items(), time.monotonic()

        def add(items: Items) -> None:
            waiting.update(items)
            size = sum(value.nbytes for each in waiting.values() for value in each.values())
            if time.monotonic() - began >= SECONDS or len(waiting) >= PER_FILE or size >= HEAVY:
                write()

        try:
            yield add
        finally:
            write()

    def add(self, items: Items) -> None:
        """Write items as one piece. Raises OutputError."""
        if not items:
            return
        tensors = {
            f"{key}/{name}": value.contiguous() for key, each in items.items() for name, value in each.items()
        }
        digests = {full: _digest(full, value) for full, value in tensors.items()}
        file = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            with atomic_file(file, overwrite=True) as temporary:
                save_file(tensors, temporary, metadata=digests)
        except SafetensorError as error:
            raise OutputError(
                f"{file}: cannot be written ({error}); free some space, or set another cache"
            ) from None
        self._take(file)

    def _take(self, file: Path) -> None:
        self._read.add(file)
        try:
            header = _header(file)
        except (OSError, ValueError, SafetensorError) as error:
            warnings.warn(
                f"{file}: a damaged piece of the cache is left out and made again ({error})", stacklevel=3
            )
            return
        for full, entry in header.items():
            key, _, name = full.partition("/")
            self.files[key] = file
            self.shapes.setdefault(key, {})[name] = tuple(entry["shape"])


@lru_cache(maxsize=64)
def _open(file: Path) -> tuple[Any, dict[str, str]]:
    """A piece and the digests in its header."""
    piece = safe_open(file, "pt")
    return piece, piece.metadata() or {}


def _digest(full: str, value: Tensor) -> str:
    """Of a tensor, its kind and its name."""
    digest = hashlib.sha256(f"{full}/{value.dtype}/{tuple(value.shape)}/".encode())
    digest.update(value.contiguous().flatten().view(uint8).numpy().data)
    return digest.hexdigest()[:32]


def _header(file: Path) -> dict[str, dict]:
    safe_open(file, "pt")  # checks the file against its header
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    digests = header.pop("__metadata__", None)
    if digests is not None and digests.keys() != header.keys():
        raise ValueError("tensors and digests have other names")
    return header
