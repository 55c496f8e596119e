"""Where the files of a run lie: one per film or clip, under names that do not depend on what others there are."""

from __future__ import annotations

import hashlib
from pathlib import Path


def measured_file(work: Path, path: str) -> Path:
    """Where the clips of a film are written."""
    name = _name(path)
    return work / "measured" / name[:2] / f"{name}.json"


def cut_file(work: Path, path: str) -> Path:
    """Where it is written which clips of a film have been cut out."""
    name = _name(path)
    return work / "cut" / name[:2] / f"{name}.json"


def strip_file(work: Path, name: str) -> Path:
    """Where a few frames of a clip, side by side, are written for people to look at."""
    return work / "strips" / name[:2] / f"{name}.png"


def clip_folder(work: Path, path: str) -> Path:
    """Where the cut clips of a film lie until they are packed."""
    return work / "cut" / _name(path)[:2]


def _name(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:32]
