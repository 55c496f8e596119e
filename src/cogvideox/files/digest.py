"""SHA-256 of files, folders, texts and plain values, as hex digits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cogvideox.errors import MediaError
from cogvideox.files.paths import files_below


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, or of a folder (names and contents, in sorted order), as 64 hex digits.

    Raises MediaError for what cannot be read, pipes and devices.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise MediaError(f"{path}: a pipe or device, not a regular file; give a plain file")
            return sha256_of_file(path)
        for file in files_below(path, None, hidden=True):
            if file.is_file():
                line = f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return digest.hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """The SHA-256 of one file, as 64 hex digits. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digests_of(folder: str | Path, pattern: str = "**/*.safetensors") -> dict[str, str]:
    """The SHA-256 of each file of a folder that fits ``pattern``, by its name in the folder. Raises MediaError."""
    folder = Path(folder)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.glob(pattern))}


def sha256_of_values(values: Any, digits: int = 16) -> str:
    """The first hex digits of the SHA-256 of plain values, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:digits]
