"""The state of a run on disk: written whole or not at all, read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cogvideox.checkpoints.atomic import atomic_file
from cogvideox.errors import CheckpointError

KEEP = 2


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state-<step>.pt``, whole or not at all, and keep the last two. Raises OutputError."""
    target = folder / f"state-{step:08d}.pt"
    with atomic_file(target, overwrite=True) as work:
        torch.save({"step": step, **state}, work)
    for old in sorted(folder.glob("state-*.pt"))[:-KEEP]:
        old.unlink()
    return target


def latest_state(folder: Path) -> dict[str, Any] | None:
    """The newest readable state, None when the run has none.

    A state that was cut off by a crash is passed over with the one before it; CheckpointError when none can be read.
    """
    files = sorted(folder.glob("state-*.pt"), reverse=True)
    problems = []
    for file in files:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a truncated archive raises many kinds: try the one before, name them all
            problems.append(f"{file.name}: {' '.join(str(error).split())[:120]}")
    if problems:
        raise CheckpointError(
            f"{folder}: no training state can be read ({'; '.join(problems)}); remove them to start over"
        )
    return None
