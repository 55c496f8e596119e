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

from cogvideox.files.atomic import write_json
from cogvideox.files.digest import sha256_of
from cogvideox.video import sidecar_of
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


def write_sidecar(path: str | Path, record: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write the record beside ``path`` as ``<name>.json``; returns where. Raises OutputError."""
    return write_json(sidecar_of(path), dict(record), overwrite)


def _input(value: Any) -> Any:
    if isinstance(value, Path):
        return {"file": value.name, "sha256": sha256_of(value)}
    return json.loads(json.dumps(value, default=str))
