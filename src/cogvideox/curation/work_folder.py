"""The work folder of a run: one record per video, written whole, under names that depend on that video alone.

A record says that something is finished. It is JSON; one that is missing or damaged means that the work is done again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cogvideox.clip import Clip
from cogvideox.curation.recipe import Recipe
from cogvideox.errors import InputError
from cogvideox.files import read_small_bytes
from cogvideox.files.atomic import write_text

MOST_RECORD = 1 << 30  # bytes


def measured_file(work: Path, path: str) -> Path:
    """The record of a video's clips as measured."""
    name = _name(path)
    return work / "measured" / name[:2] / f"{name}.json"


def cut_file(work: Path, path: str) -> Path:
    """The record of which clips of a video have been cut out."""
    name = _name(path)
    return work / "cut" / name[:2] / f"{name}.json"


def shard_file(work: Path, number: int) -> Path:
    """The record of what a shard holds."""
    return work / "packed" / f"{number:05d}.json"


def strip_file(work: Path, clip_id: str) -> Path:
    """The picture of a few frames of a clip, side by side, for the report."""
    return work / "strips" / clip_id[:2] / f"{clip_id}.png"


def clip_folder(work: Path, path: str) -> Path:
    """The folder of a video's cut clips until they are packed."""
    return work / "cut" / _name(path)[:2]


def read_record(file: Path) -> dict[str, Any] | None:
    """A record; None where there is none that can be read."""
    try:  # not by ``files.structured``: these are read several times a run, and it takes ten times as long
        record = json.loads(read_small_bytes(file, most=MOST_RECORD))
    except (InputError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all. Raises OutputError."""
    write_text(file, json.dumps(record, ensure_ascii=True))


def write_measured(work: Path, job: dict[str, Any], recipe: Recipe, clips: list[Clip]) -> None:
    """Write the record that a video is measured: its clips. Raises OutputError."""
    record = {
        "path": job["path"],
        "size": job["size"],
        "changed": job["changed"],
        "beside": job.get("beside", ""),
        "recipe": recipe.measuring(),
        "clips": [clip.model_dump(mode="json") for clip in clips],
    }
    write_record(measured_file(work, job["path"]), record)


def write_cut(
    work: Path, job: dict[str, Any], recipe: Recipe, media: dict[str, Any], failed: str = ""
) -> None:
    """Write the record that the clips of a video are cut out, or why they cannot be. Raises OutputError."""
    record = {
        "cut": recipe.cut(),
        "clips": sorted(clip["id"] for clip in job["clips"]),
        "made": media,
        "failed": failed,
    }
    write_record(cut_file(work, job["path"]), record)


def _name(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:32]
