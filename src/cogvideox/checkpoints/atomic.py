"""Folders that appear whole or not at all: written beside their place, flushed, then renamed.

Overwriting replaces a whole folder, so it is allowed only where a checkpoint stands: nothing else can be lost.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideox.errors import OutputError

MARKS = ("model_index.json", "cogvideox.json", "latest", "3d-vae.pt", "transformer/latest", "vae/3d-vae.pt",
         "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")  # fmt: skip
"""Files that only checkpoints have; ``config.json`` is looked into, for every second project has one."""


@contextmanager
def atomic_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``target`` when the block ends without an error.

    Raises OutputError when ``target`` is a file, or holds anything and ``overwrite`` is false; with ``overwrite``
    when it holds something and is no checkpoint.
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
        discard(work)


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
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise OutputError(f"{target}: cannot be written: {reason}; free some space and try again") from error
    finally:
        work.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Delete a folder or file at which others may be at work; nothing happens where nothing stands.

    It loses its name first: nobody begins anything more in it, and half-deleted it is not taken for damaged. A file
    that was being made in it at that moment may outlive one look through the folder, so there are two.
    """
    hidden = path.parent / f".{uuid.uuid4().hex[:12]}.old-{path.name.lstrip('.')}"
    try:
        path.rename(hidden)
    except OSError:
        hidden = path
    if not hidden.is_dir():
        hidden.unlink(missing_ok=True)
    for _ in range(2):
        shutil.rmtree(hidden, ignore_errors=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; a folder is written here")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{target}: holds files already; choose another folder, or pass overwrite")
    if not is_checkpoint(target):
        held = ", ".join(sorted(path.name for path in target.iterdir())[:4])
        raise OutputError(
            f"{target}: is not replaced, since it is no checkpoint: it holds {held}; choose another folder"
        )


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a model, a part of one, a SAT checkpoint or an adapter."""
    if any((folder / mark).is_file() for mark in MARKS):
        return True
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and ("_class_name" in values or "architectures" in values)


def _swap(work: Path, target: Path) -> None:
    """Put ``work`` in the place of ``target``; what stood there is deleted last: one is always whole."""
    old = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:12]}"
    if target.exists():
        os.rename(target, old)
    os.rename(work, target)
    _flush_one(target.parent)
    discard(old)


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
