"""The state of a run on disk: a folder that appears whole or not at all, hashed, and read without unpickling anything.

``state-<step>/`` holds ``tree.json`` (the structure and plain values), ``tensors-*.safetensors`` and ``manifest.json``
(step, size and SHA-256 of every file, and a digest of itself). The newest whose manifest verifies is resumed from.

Where weights are sharded, each process writes files of its own rows into the one folder, which all must see; the first
waits for all, writes the manifest and gives the folder its name.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.tensor import DTensor

from cogvideox.errors import CheckpointError, NumericsError
from cogvideox.files import read_json
from cogvideox.files.atomic import atomic_folder, discard
from cogvideox.files.text import MOST_TABLE_BYTES
from cogvideox.parallel.shard import SavedShards, is_first_replica, local_rows, to_local
from cogvideox.training.checkpoint.writers import ALONE, Writers

KEEP = 2  # never less: the newest may be damaged
SCHEMA = 1
FILE_BYTES = 1 << 29
PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Snapshot:
    """What this process will write of a state; copies, so the run may go on meanwhile."""

    step: int
    tree: Any
    tensors: dict[str, Tensor]


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state-<step>/``, whole or not at all, and keep the last two.

    ``state`` is a tree of dicts, lists, tuples, plain values and tensors. Raises OutputError when it cannot be written,
    NumericsError when a weight of ``module`` is not finite: such a state must not become the newest.
    """
    return write_state(folder, snapshot(step, state))


def snapshot(step: int, state: dict[str, Any]) -> Snapshot:
    """Copy what this process will write of ``state``. Raises NumericsError as ``save_state`` does."""
    _check_finite(state.get("module") or {}, step)
    tensors: dict[str, Tensor] = {}
    tree = _flatten({"step": step, **state}, "", tensors)
    return Snapshot(step, tree, tensors)


def write_state(folder: Path, taken: Snapshot, writers: Writers = ALONE) -> Path:
    """Write a snapshot, together with the other ``writers``. Raises OutputError on every one whose part fails, and on
    the first when any fails."""
    target = folder / f"state-{taken.step:08d}"
    if not writers.is_first:
        with writers.joining(target) as work:
            writers.publish(work, _write_tensors(work, taken, writers.prefix))
        return target
    if target.exists():
        discard(target)  # a damaged one that was passed over when the run resumed
    with atomic_folder(target) as work, writers.leading(work):
        sizes = {"tree.json": _write(work / "tree.json", json.dumps(taken.tree).encode())}
        sizes |= _write_tensors(work, taken, writers.prefix)
        sizes |= writers.others(work)
        _write(work / "manifest.json", _manifest(taken.step, sizes))
    for old in _states(folder)[KEEP:]:
        discard(old)
    return target


def _write_tensors(work: Path, taken: Snapshot, prefix: str) -> dict[str, Any]:
    sizes = {}
    for number, some in enumerate(_files(taken.tensors)):
        name = f"tensors-{prefix}{number:05d}.safetensors"
        sizes[name] = _write(work / name, save(some))
    return sizes


def latest_state(folder: Path) -> dict[str, Any] | None:
    """The newest whole state, None when the run has none. A damaged one is passed over, with a warning, for the one
    before it; CheckpointError when none can be read."""
    problems = []
    for path in _states(folder):
        try:
            state = _read(path) if path.is_dir() else _read_file(path)
        except Exception as error:  # damage shows in many ways: try the one before, name them all
            problems.append(f"{path.name}: {' '.join(str(error).split())[:120]}")
            continue
        for problem in problems:
            warnings.warn(f"{folder}: a damaged training state is passed over: {problem}", stacklevel=2)
        return state
    if problems:
        raise CheckpointError(
            f"{folder}: no training state can be read ({'; '.join(problems)}); remove them to start over"
        )
    return None


def has_state(folder: Path) -> bool:
    """Whether the folder holds any state that a run would resume from."""
    return bool(_states(folder))


def _states(folder: Path) -> list[Path]:
    """States by step, newest first; ``.pt`` files are those of version 0.1."""
    states = [path for path in folder.glob("state-*") if re.fullmatch(r"state-\d{8}(\.pt)?", path.name)]
    return sorted(states, key=lambda path: path.name[6:14], reverse=True)


def _write(file: Path, data: bytes) -> dict[str, Any]:
    file.write_bytes(data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _manifest(step: int, sizes: dict[str, Any]) -> bytes:
    values = {"schema": SCHEMA, "step": step, "files": sizes}
    return json.dumps(values | {"digest": _digest(values)}).encode()


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _files(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors in groups of at most half a gigabyte, so that no more is held twice in memory."""
    group: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors.items():
        if group and size + value.nbytes > FILE_BYTES:
            yield group
            group, size = {}, 0
        group[name], size = value, size + value.nbytes
    yield group


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON in which a tensor is its name; strides are kept, for a moment must lie in memory as its weight does."""
    if isinstance(value, DTensor):
        first, last = local_rows(value)
        if is_first_replica(value) and last > first:
            tensors[f"{path}@{first}"] = to_local(value.detach()).contiguous().cpu().clone()
        each = -(-value.shape[0] // value.device_mesh.size(-1))
        return {"rows": path, "shape": list(value.shape), "each": each}
    if isinstance(value, Tensor):
        name = path or "value"
        tensors[name] = value.detach().contiguous().cpu().clone()
        return {"tensor": name} if value.is_contiguous() else {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(each, f"{path}/{key}", tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(each, f"{path}/{number}", tensors) for number, each in enumerate(value)]}
    if not isinstance(value, PLAIN):
        raise CheckpointError(
            f"state {path}: a {type(value).__name__} cannot be stored; use tensors and plain values"
        )
    return value


def _build(tree: Any, tensors: dict[str, Tensor], shards: dict[str, Path]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "rows" in tree:
        return SavedShards(tuple(tree["shape"]), partial(_read_rows, tree["rows"], tree["each"], shards))
    ((kind, value),) = [item for item in tree.items() if item[0] != "stride"]
    if kind == "tensor":
        tensor = tensors[value]
        if "stride" not in tree:
            return tensor
        return torch.empty_strided(tensor.shape, tree["stride"], dtype=tensor.dtype).copy_(tensor)
    if kind == "dict":
        return {key: _build(each, tensors, shards) for key, each in value}
    built = [_build(each, tensors, shards) for each in value]
    return built if kind == "list" else tuple(built)


def _read(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json", most=MOST_TABLE_BYTES, error=CheckpointError)
    digest = manifest.pop("digest")
    if digest != _digest(manifest):
        raise CheckpointError("manifest.json: its digest does not match")
    if manifest["schema"] != SCHEMA:
        raise CheckpointError(f"written with schema {manifest['schema']}, this version reads {SCHEMA}")
    if folder.name != f"state-{manifest['step']:08d}":
        raise CheckpointError(f"it is the state of step {manifest['step']} under another name")
    tensors: dict[str, Tensor] = {}
    shards: dict[str, Path] = {}
    tree = None
    for name, facts in manifest["files"].items():
        data = (folder / name).read_bytes()
        if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise CheckpointError(f"{name}: {len(data)} bytes that are not those written")
        if name == "tree.json":
            tree = json.loads(data)
        else:
            for key, value in load(data).items():
                if re.search(r"@\d+$", key):  # read again when rows are asked for: all may not fit in memory
                    shards[key] = folder / name
                else:
                    tensors[key] = value
    return _build(tree, tensors, shards)


def _read_rows(name: str, each: int, shards: dict[str, Path], first: int, last: int) -> Tensor:
    """Rows ``first`` to ``last`` of a tensor that was written ``each`` rows at a time."""
    pieces = []
    for start in range(first // each * each, last, each) if last > first else (0,):
        key = f"{name}@{start}"
        with safe_open(shards[key], framework="pt") as file:
            here = (max(first - start, 0), min(last - start, each)) if last > first else (0, 0)
            pieces.append(file.get_slice(key)[slice(*here)])
    return torch.cat(pieces)


def _read_file(file: Path) -> dict[str, Any]:
    """A state of version 0.1; its moving average was a module."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    average = state.get("average")
    if average is not None:
        values = {
            name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"
        }
        state["average"] = {"count": int(average["n_averaged"]), "values": values}
    return state


def _check_finite(weights: dict[str, Tensor], step: int) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(to_local(value)).all()):
            raise NumericsError(
                f"step {step}: {name} is not finite, so no state is written; the one before stays. Lower the rate"
            )
