"""Tensors that stay in their file until they are needed, and are read into memory that is there already.

The bytes are read, not mapped: mapped pages would count as memory of the process for as long as they are cached, and a
file that is cut short under a mapping kills the process. A file that changes under a model is an error of ours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cogvideox.errors import CheckpointError
from cogvideox.files.quantised import QuantisedTensor, WeightFormat

PIECE = 2**22
"""Elements that are read at once where they are cast: at most 16 MB beside the weights."""
ALIGNED = 64
"""Bytes that each tensor of a piece of memory begins at a multiple of."""


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
    """One tensor of a file: where its bytes are, what they are, and the precision it gets when it is read."""

    file: WeightFile
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    wanted: torch.dtype

    @property
    def held(self) -> int:
        """Bytes of memory that it takes once it is read."""
        return math.prod(self.shape) * self.wanted.itemsize

    def read(self) -> Tensor:
        """The tensor, in memory of its own."""
        return self.read_into(torch.empty(self.held, dtype=torch.uint8))

    def read_into(self, memory: Tensor) -> Tensor:
        """The tensor, read into the first ``held`` bytes of ``memory`` (uint8, contiguous, on a CPU)."""
        target = memory[: self.held].view(self.wanted)
        if self.dtype == self.wanted:
            self.file.read(self.offset, memory[: self.held])
            return target.view(self.shape)
        offset = self.offset
        for part in target.split(PIECE):
            stored = torch.empty(part.shape, dtype=self.dtype)
            self.file.read(offset, stored.view(torch.uint8))
            part.copy_(stored)
            offset += stored.nbytes
        return target.view(self.shape)


@dataclass(frozen=True)
class StoredQuantised:
    """A weight in few bits in a file: the places of its parts, and how numbers are made of them.

    ``dense``: whether they are made when it is read, so that it is a plain tensor from then on.
    """

    form: WeightFormat
    inner: Mapping[str, StoredTensor]
    shape: tuple[int, ...]
    wanted: torch.dtype
    dense: bool = False

    @property
    def held(self) -> int:
        """Bytes of memory that it takes once it is read."""
        return math.prod(self.shape) * self.wanted.itemsize if self.dense else sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [-(-part.held // ALIGNED) * ALIGNED for part in self.inner.values()]

    def read(self) -> Tensor:
        """The weight, in memory of its own: its parts, or numbers where it is to be dense."""
        return self.read_into(torch.empty(self.held, dtype=torch.uint8))

    def read_into(self, memory: Tensor) -> Tensor:
        """The same in the first ``held`` bytes of ``memory`` (uint8, contiguous, on a CPU)."""
        if self.dense:
            inner = {name: part.read() for name, part in self.inner.items()}
            target = memory[: self.held].view(self.wanted).view(self.shape)
            return target.copy_(self.form.decode(inner, self.shape))
        pieces = memory[: self.held].split(self._sizes)
        inner = {
            name: part.read_into(piece)
            for (name, part), piece in zip(self.inner.items(), pieces, strict=True)
        }
        return QuantisedTensor(self.form, inner, self.shape, self.wanted)


Stored = StoredTensor | StoredQuantised


def leave_in_file(tensor: Tensor, stored: Stored) -> Tensor:
    """Mark a tensor of ``meta`` as one whose values are in a file; returns it."""
    tensor.stored = stored  # type: ignore[attr-defined]  # a mark of ours, which travels with the parameter
    return tensor


def stored_of(tensor: Tensor) -> Stored | None:
    """Where the values of a tensor of ``meta`` are; None for one that is in memory."""
    stored: Stored | None = getattr(tensor, "stored", None)
    return stored


def is_in_files(network: nn.Module) -> bool:
    """Whether weights of a network stay in their files, those apart that are read just now."""
    return any(stored_of(weight) is not None for weight in network.parameters())


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
