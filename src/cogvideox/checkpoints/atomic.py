"""Folders that appear whole or not at all: written beside their place, flushed, then renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideox.errors import OutputError


@contextmanager
def atomic_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``target`` when the block ends without an error.

    Raises OutputError when ``target`` is a file, or holds anything and ``overwrite`` is false.
    """
    target = Path(target)
    _check_free(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}.new-{uuid.uuid4().hex[:12]}"
    try:
        work.mkdir()
        yield work
        _flush(work)
        _swap(work, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def atomic_file(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write to; it is renamed to ``target`` when the block ends without an error."""
    target = Path(target)
    if target.is_dir() or (target.exists() and not overwrite):
        raise OutputError(f"{target}: exists already; choose another name, or pass overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".new-{uuid.uuid4().hex[:12]}-{target.name}"
    try:
        yield work
        _flush_one(work)
        os.replace(work, target)
        _flush_one(target.parent)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        work.unlink(missing_ok=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; a folder is written here")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target}: holds files already; choose another folder, or pass overwrite")


def _swap(work: Path, target: Path) -> None:
    """Put ``work`` in the place of ``target``; what stood there is deleted last: one is always whole."""
    old = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:12]}"
    if target.exists():
        os.rename(target, old)
    os.rename(work, target)
    _flush_one(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush_one(path)
    _flush_one(folder)


def _flush_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
