"""Tensors that stay in their file until they are needed, and are read into memory that is there already.

The bytes are read, not mapped: mapped pages would count as memory of the process for as long as they are cached, and a
file that is cut short under a mapping kills the process. A file that changes under a model is an error of ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cogvideox.errors import CheckpointError

PIECE = 2**22
"""Elements that are read at once where they are cast: at most 16 MB beside the weights."""


class WeightFile:
    """A file whose tensors are read again and again; it must stay what it was when it was opened first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = _state(os.stat(path))

    def read(self, offset: int, memory: Tensor) -> None:
        """Fill ``memory`` (uint8, contiguous, on a CPU) with the bytes at ``offset``.

        Raises CheckpointError when the file is gone, too short, or another one than it was.
        """
        view = memory.numpy().data
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                done = 0
                while done < len(view) and (count := file.readinto(view[done:])):
                    done += count
                same = _state(os.fstat(file.fileno())) == self._state
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be read any more ({error.strerror}); {CURE}"
            ) from None
        if done < len(view) or not same:
            what = "has changed" if not same else f"ends {len(view) - done} bytes too early"
            raise CheckpointError(f"{self.path}: {what} while a model was reading its weights; {CURE}")


CURE = "weights that stay in their files are read while a video is made: leave them in place, and load the model again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: where its bytes are, what they are, and the precision it gets when it is read.

    ``decode`` makes numbers of the bytes (uint8) of a packed format, in ``shape``; None: they are of ``dtype``.
    """

    file: WeightFile
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    wanted: torch.dtype
    decode: Callable[[Tensor], Tensor] | None = None

    @property
    def is_cast(self) -> bool:
        """Whether reading computes something: a cast, or numbers of a packed format."""
        return self.decode is not None or self.dtype != self.wanted

    def read(self) -> Tensor:
        """The tensor, in memory of its own."""
        tensor = torch.empty(self.shape, dtype=self.wanted)
        self.read_into(tensor)
        return tensor

    def read_into(self, target: Tensor) -> None:
        """Fill ``target``: contiguous, on a CPU, of ``shape`` and ``wanted``."""
        flat = target.detach().reshape(-1)
        if self.decode is not None:
            packed = torch.empty(self.nbytes, dtype=torch.uint8)
            self.file.read(self.offset, packed)
            flat.copy_(self.decode(packed).reshape(-1))
        elif not self.is_cast:
            self.file.read(self.offset, flat.view(torch.uint8))
        else:
            offset = self.offset
            for part in flat.split(PIECE):
                stored = torch.empty(part.shape, dtype=self.dtype)
                self.file.read(offset, stored.view(torch.uint8))
                part.copy_(stored)
                offset += stored.nbytes


def leave_in_file(tensor: Tensor, stored: StoredTensor) -> Tensor:
    """Mark a tensor of ``meta`` as one whose values are in a file; returns it."""
    tensor.stored = stored  # type: ignore[attr-defined]  # a mark of ours, which travels with the parameter
    return tensor


def stored_of(tensor: Tensor) -> StoredTensor | None:
    """Where the values of a tensor of ``meta`` are; None for one that is in memory."""
    stored: StoredTensor | None = getattr(tensor, "stored", None)
    return stored


def is_in_files(network: nn.Module) -> bool:
    """Whether weights of a network stay in their files, those apart that are read just now."""
    return any(stored_of(weight) is not None for weight in network.parameters())


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
