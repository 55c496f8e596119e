"""Several writers of one state, as threads."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from cogvideox.training.checkpoint.state import snapshot, write_state
from cogvideox.training.checkpoint.writers import Writers


def write(folder: Path, ranks: int, patience: float = 20) -> list[Exception | None]:
    """All ranks at once, as threads; what each of them failed with."""
    failed: list[Exception | None] = [None] * ranks

    def one(rank: int) -> None:
        taken = snapshot(2, {"module": {f"weight{rank}": torch.full((3,), float(rank))}})
        try:
            write_state(folder, taken, Writers(rank, ranks, patience))
        except Exception as error:
            failed[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed
