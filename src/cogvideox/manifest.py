"""What made this file: settings, inputs with their hashes, code versions, seed; in the file and beside it.

Every generated video says in machine-readable form that a model made it (IPTC digital source type).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cogvideox.errors import MediaError
from cogvideox.files import files_below
from cogvideox.video import sha256_of_file, sidecar_of, write_json
from cogvideox.video.saving import AI_MADE, LABEL

PACKAGES = ("cogvideox", "torch", "safetensors", "av", "numpy")


def manifest(
    kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """A plain, JSON-ready record.

    kind: what was done ("generate", "train", ...). inputs: name -> any plain value, or the Path of a file,
    which is hashed; only its name is kept, folders tell about people. Raises MediaError for a missing file.
    """
    settings = json.loads(json.dumps(dict(config), default=str))
    text = json.dumps(settings, sort_keys=True)
    return {
        "kind": kind,
        LABEL: AI_MADE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "config": settings,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "inputs": {name: _input(value) for name, value in inputs.items()},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Python and the libraries that decide the numbers, as installed; imports none of them."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not installed: nothing to record
    return found


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, or of a folder (names and contents, in sorted order), as 64 hex digits."""
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


def digests_of(folder: str | Path, pattern: str = "**/*.safetensors") -> dict[str, str]:
    """The SHA-256 of each file of a folder, its weights by default, read now: what it says of itself may be
    old.
    """
    folder = Path(folder)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.glob(pattern))}


def write_sidecar(path: str | Path, record: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write the record beside ``path`` as ``<name>.json``; returns where. Raises OutputError."""
    return write_json(sidecar_of(path), dict(record), overwrite)


def _input(value: Any) -> Any:
    if isinstance(value, Path):
        return {"file": value.name, "sha256": sha256_of(value)}
    return json.loads(json.dumps(value, default=str))
