"""Which precision a CPU computes in: float16 is a format for storing there, not for arithmetic.

The shipped models and CogVideoX-2B are stored in float16; decoding in it on a CPU takes 10 to 100 times as long as in
float32, for no better picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from cogvideox.checkpoints.tensors import read_folder


def for_a_cpu(
    folder: Path, parts: Mapping[str, str], wanted: torch.dtype | None, asked: bool, variant: str | None
) -> dict[str, torch.dtype | None]:
    """The precision of each part: float32 instead of float16, unless that was ``asked`` for; warns in both cases.

    ``parts``: folder of the part -> stem of its files. ``wanted`` None: as stored.
    """
    slow = "a CPU is 10 to 100 times slower in float16"
    if asked:
        if wanted == torch.float16:
            warnings.warn(
                f"{folder}: dtype float16: {slow} than in float32; use dtype='float32'", stacklevel=3
            )
        return dict.fromkeys(parts, wanted)
    half = [part for part, stem in parts.items() if _is_half(folder / part, stem, wanted, variant)]
    if half:
        warnings.warn(
            f"{folder}: {', '.join(half)}: float16 becomes float32, since {slow}; dtype='float16' keeps it",
            stacklevel=3,
        )
    return {part: torch.float32 if part in half else wanted for part in parts}


def _is_half(folder: Path, stem: str, wanted: torch.dtype | None, variant: str | None) -> bool:
    if wanted is not None or not folder.is_dir():
        return wanted == torch.float16
    tensors = read_folder(folder, stem, variant if folder.name != "text_encoder" else None)
    return any(entry.dtype == torch.float16 for entry in tensors.entries.values())
