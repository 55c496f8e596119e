"""Named tensors in safetensors files: one or several, read lazily, written whole, refused when damaged.

A folder holds ``<stem>.safetensors``, or shards ``<stem>-00001-of-00003.safetensors`` and
``<stem>.safetensors.index.json``.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogvideox.errors import CheckpointError, few
from cogvideox.files import check_link, root_of_links, short, structured
from cogvideox.files.quantised import dense
from cogvideox.files.stored import Stored, StoredTensor, WeightFile

HEADER_LIMIT = 8 * 2**20  # bytes; the largest public model needs 150 kB
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """What a header says about one tensor; ``offset``: where its bytes begin in the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    offset: int = 0


class Tensors(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name; headers are read at once, a tensor when asked for."""

    def __init__(self, entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> None:
        self.entries = dict(entries)
        self.metadata = dict(metadata)
        self._open: dict[Path, safe_open] = {}
        self._files: dict[Path, WeightFile] = {}

    def __getitem__(self, name: str) -> Tensor:
        file = self.entries[name].file
        try:
            if file not in self._open:
                self._open[file] = safe_open(file, framework="pt", device="cpu")
            return self._open[file].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{file}: {name} cannot be read: {_line(error)}; copy the file again"
            ) from None

    def stored(self, name: str, dtype: torch.dtype | None = None, dense: bool = False) -> Stored:
        """Where one tensor is, to be read later, as ``dtype`` where it is floating (None: as stored).

        ``dense``: whether numbers are made of a quantised one when it is read; those of safetensors alone are plain.
        """
        entry = self.entries[name]
        file = self._files.setdefault(entry.file, WeightFile(entry.file))
        wanted = dtype if dtype is not None and entry.dtype.is_floating_point else entry.dtype
        return StoredTensor(file, entry.offset, entry.shape, entry.dtype, wanted)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; of tensors in files without reading them."""
    described = tensors.entries if isinstance(tensors, Tensors) else tensors
    return {name: tuple(each.shape) for name, each in described.items()}


def dtypes_of(tensors: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    """Types by name; of tensors in files without reading them."""
    described = tensors.entries if isinstance(tensors, Tensors) else tensors
    return {name: each.dtype for name, each in described.items()}


def read_file(path: str | Path, root: Path | None = None) -> Tensors:
    """The tensors of one safetensors file, whose links must not lead out of ``root``. Raises CheckpointError for any
    other, cut or damaged file."""
    path = Path(path)
    _check_regular(path, root)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            size = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= size <= HEADER_LIMIT:
                raise CheckpointError(f"{path}: not a safetensors file: {_kind(path)}")
            header = file.read(size)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            begins = json.loads(header)  # safe_open has checked it: bytes, shapes and types agree
            entries = {
                name: _entry(file, name, path, 8 + size + begins[name]["data_offsets"][0])
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cut short or damaged: {_line(error)}; it has {path.stat().st_size} bytes; copy it again"
        ) from None
    return Tensors(entries, metadata)


def read_folder(folder: str | Path, stem: str, variant: str | None = None) -> Tensors:
    """The tensors ``stem`` of a folder: one file, or shards named by an index.

    ``variant`` picks files such as ``<stem>.fp16.safetensors``; without it, a folder that holds one variant only is
    read as that. Raises CheckpointError when files are missing or disagree with the index.
    """
    folder = Path(folder)
    root = link_root(folder)
    variant = variant or _only_variant(folder, stem)
    name = f"{stem}.{variant}" if variant else stem
    single = folder / f"{name}.safetensors"
    for index in (
        folder / f"{stem}.safetensors.index{'.' + variant if variant else ''}.json",
        folder / f"{name}.safetensors.index.json",
    ):
        if index.is_file() and not single.is_file():
            return _read_shards(index, root)
    if not single.exists():
        held = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
        pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in held)
        hint = "; pickled weights (.bin, .pt) are not read: save them as safetensors" if pickled else ""
        raise CheckpointError(f"{single}: no such file{hint}; the folder holds {few(held) or 'nothing'}")
    return read_file(single, root)


def read_weight_map(index: Path, ending: str) -> dict[str, str]:
    """Tensor name -> file, all in the index's folder and with this ending. Raises CheckpointError for any other."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: no 'weight_map' from tensor names to file names")
    for file in weight_map.values():
        if Path(file).name != file or not file.endswith(ending):
            kind = ending.removeprefix(".")
            raise CheckpointError(
                f"{index}: shard {short(file)} is not the name of a {kind} file in this folder"
            )
    return weight_map


def link_root(folder: Path) -> Path:
    """The folder that links in a model folder, or in one of its components, must not lead out of."""
    return root_of_links(folder, "model_index.json", "cogvideox.json")


def write_folder(
    folder: str | Path, stem: str, tensors: Mapping[str, Tensor], shard_bytes: int
) -> list[Path]:
    """Write one file, or shards of at most ``shard_bytes`` and their index; returns the files. Raises CheckpointError
    for NaN or Inf: such weights are never published."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _plan(tensors, shard_bytes)
    files, weight_map = list[Path](), dict[str, str]()
    for number, names in enumerate(shards, 1):
        numbered = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = folder / f"{stem}{numbered}.safetensors"
        write_file(file, {name: tensors[name] for name in names})
        weight_map.update(dict.fromkeys(names, file.name))
        files.append(file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")
    return files


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file; raises CheckpointError for NaN, Inf or a disk that cannot take it."""
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        raise CheckpointError(f"{path.name}: not written: NaN or Inf in {few(bad)}")
    try:
        own = {name: owned(tensor) for name, tensor in tensors.items()}
        path.touch()
        mode = path.stat().st_mode
        save_file(own, path, metadata={"format": "pt", **(metadata or {})})
        path.chmod(mode)  # safetensors leaves files that their owner alone can read
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be written: {_line(error)}; is there space and permission?"
        ) from None


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or Inf."""
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor if tensor.dtype.itemsize > 1 else tensor.float()).all())


def owned(tensor: Tensor) -> Tensor:
    """A contiguous CPU tensor that owns just its bytes: a view would drag its whole storage into a file."""
    tensor = dense(tensor.detach().to("cpu")).contiguous()
    owns_all = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if owns_all else tensor.clone()


def to_bytes(size: int | str) -> int:
    """Bytes from a number or text such as '5GB' or '512MiB'; raises CheckpointError."""
    units = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    text = str(size).strip().upper()
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        value = size if isinstance(size, int) else int(float(text.removesuffix(unit)) * units.get(unit, 1))
    except ValueError:
        value = 0
    if value <= 0:
        raise CheckpointError(f"shard size {size!r}: expected bytes, or text such as '5GB'")
    return value


def read_json(path: Path, limit: int = 16 * 2**20) -> dict[str, Any]:
    """A JSON object from a file; raises CheckpointError when it is missing, too large or not an object."""
    _check_regular(path, link_root(path.parent))
    values = structured.read_json(path, most=limit, error=CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _read_shards(index: Path, root: Path) -> Tensors:
    weight_map = read_weight_map(index, ".safetensors")
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    for file in dict.fromkeys(weight_map.values()):
        shard = read_file(index.parent / file, root)
        twice = [name for name in shard if name in entries]
        if twice:
            raise CheckpointError(
                f"{index.parent / file}: tensors that another shard holds too: {few(twice)}"
            )
        entries.update(shard.entries)
        metadata.update(shard.metadata)
    wrong = [
        name for name, file in weight_map.items() if name not in entries or entries[name].file.name != file
    ]
    unlisted = [name for name in entries if name not in weight_map]
    if wrong or unlisted:
        raise CheckpointError(
            f"{index}: disagrees with its shards about {few(wrong + unlisted)}; copy the folder again"
        )
    return Tensors(entries, metadata)


def _entry(file: safe_open, name: str, path: Path, offset: int) -> TensorEntry:
    piece = file.get_slice(name)
    kind = piece.get_dtype()
    if kind not in DTYPES:
        raise CheckpointError(f"{path}: {name} has type {kind}; one of {', '.join(DTYPES)} is read")
    return TensorEntry(tuple(piece.get_shape()), DTYPES[kind], path, offset)


def _plan(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def _only_variant(folder: Path, stem: str) -> str | None:
    """The variant of a folder that holds ``<stem>.<variant>.safetensors`` (or shards) and no other."""
    plain = (folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json")
    if not folder.is_dir() or any(file.exists() for file in plain):
        return None
    variants = {
        path.name.removeprefix(stem + ".").split(".")[0].split("-")[0]
        for path in folder.glob(f"{stem}.*.safetensors")
        if path.name.count(".") == 2
    }
    return variants.pop() if len(variants) == 1 else None


def _check_regular(path: Path, root: Path | None) -> None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise CheckpointError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: not a regular file")
    if root is not None:
        check_link(path, root, CheckpointError)


def _kind(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "a pickled PyTorch file, which can run code; save the weights as safetensors"
    if head.startswith(b"GGUF"):
        return "a GGUF file, which is read for the text encoder alone (--text-encoder); take the full release"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run `git lfs pull`"
    return f"{path.stat().st_size} bytes that begin with {head[:8]!r}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
