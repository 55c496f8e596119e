"""Pickled PyTorch files (.pt, .bin) read as data: tensors and plain containers only, mapped rather than loaded.

``weights_only`` refuses everything that could run code, but trusts what the file claims: a tensor of 8 TB that repeats
64 bytes, or a storage that is longer than its record and reads whatever lies behind it. Both are refused here.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import CheckpointError, few

MOST_REPEATED = 4
"""How often the tensors of one file may stand for the same bytes (tied weights do twice)."""
MOST_RECORDS = 1_000_000
WRAPPERS = ("model", "module", "state_dict")
"""Keys under which SAT, DeepSpeed and others keep the state dict of a file."""
_DAMAGE = (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
           OverflowError, MemoryError, RecursionError)  # fmt: skip
"""What PyTorch raises for files that are cut or damaged."""


def load_pickled(file: Path) -> dict[Any, Any]:
    """The dictionary in a pickled file, its tensors mapped. Raises CheckpointError when it is cut, is something else,
    would have to run code to be read, or claims more than it holds."""
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused: it holds more than tensors, and reading it could run code ({_line(error)}); "
            "save its state dict alone"
        ) from None
    except _DAMAGE as error:
        raise CheckpointError(f"{file}: cut short, damaged, or not a PyTorch file: {_line(error)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected names and tensors, found {type(values).__name__}")
    _check_storages(file, dict(_tensors(values, "")))
    return values


def unwrapped(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The state dict in what a file holds, which may be wrapped several times."""
    for _ in WRAPPERS:  # not until none is left: a file can hold itself
        inner = next((values[key] for key in WRAPPERS if isinstance(values.get(key), Mapping)), None)
        values = values if inner is None else inner
    return dict(values)


def is_plain(value: Any) -> bool:
    """Whether a value is an ordinary dense tensor that holds its own values."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
    )


def _tensors(values: Mapping[Any, Any], path: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if is_plain(value):
            yield f"{path}{name}", value
        elif isinstance(value, Mapping) and depth < 8:
            yield from _tensors(value, f"{path}{name}.", depth + 1)


def _check_storages(file: Path, tensors: Mapping[str, Tensor]) -> None:
    records = _records(file)
    storages: dict[int, int] = {}  # where it begins in memory -> bytes
    owner: dict[int, str] = {}
    total = 0
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        total += tensor.nbytes
        if tensor.nbytes > storage.nbytes():
            raise CheckpointError(
                f"{file}: {name} claims {tensor.nbytes:,} bytes, its storage holds {storage.nbytes():,}; "
                "it is damaged or made to mislead"
            )
        if storage.nbytes():
            storages[storage.data_ptr()] = storage.nbytes()
            owner[storage.data_ptr()] = name
    more = Counter(storages.values()) - records
    if more:
        name = next(owner[start] for start, size in storages.items() if size in more)
        raise CheckpointError(
            f"{file}: {name} claims a storage of {max(more):,} bytes, which no record of the file has; "
            "it is damaged or made to mislead"
        )
    for before, after in pairwise(sorted(storages)):
        if before + storages[before] > after:
            raise CheckpointError(f"{file}: {owner[before]} reads into {owner[after]}; it is damaged")
    if total > MOST_REPEATED * max(file.stat().st_size, 1):
        raise CheckpointError(
            f"{file}: its tensors claim {total:,} bytes, the file has {file.stat().st_size:,}; "
            "it is damaged or made to mislead"
        )


def _records(file: Path) -> Counter[int]:
    """How many stored records the archive has of each size."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{file}: cut short, damaged, or not a PyTorch file: {_line(error)}") from None
    data = [entry for entry in entries if "/data/" in entry.filename]
    packed = [entry.filename for entry in data if entry.compress_type != zipfile.ZIP_STORED]
    if packed or len(entries) > MOST_RECORDS:
        raise CheckpointError(
            f"{file}: compressed records ({few(packed)}), which PyTorch does not write; refused"
        )
    return Counter(entry.file_size for entry in data)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
