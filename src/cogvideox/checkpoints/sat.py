"""SwissArmyTransformer checkpoints, what the models were trained in: read without running code, and written.

A SAT file is a pickle. It is opened with ``weights_only`` only, which refuses everything but tensors and
plain containers, and mapped rather than loaded, so a 20 GB file costs no memory until a tensor is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cogvideox.checkpoints.families import check_floats
from cogvideox.checkpoints.keymap import Keymap, few, sat_transformer, sat_vae
from cogvideox.checkpoints.pickled import is_plain, load_pickled
from cogvideox.checkpoints.tensors import is_finite, link_root, owned
from cogvideox.errors import CheckpointError
from cogvideox.files import check_link, read_small_text, short
from cogvideox.files.atomic import atomic_file

Part = Literal["transformer", "vae", "lora"]
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
WRAPPERS = ("model", "module", "state_dict")
STATES = "mp_rank_00_model_states.pt"
PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class SatFile:
    """What a SAT file holds: which part of the model, and its tensors under SAT's own names."""

    path: Path
    part: Part
    tensors: dict[str, Tensor]
    extra: dict[str, Any]

    def ours(self, stages: int = 4, learned_positions: bool = False) -> dict[str, Tensor]:
        """The tensors under our names; raises CheckpointError on names nobody knows."""
        return keymap(self.part, stages, learned_positions).to_ours(self.tensors)


def keymap(part: Part, stages: int = 4, learned_positions: bool = False) -> Keymap:
    """The rules of one part of the model."""
    return sat_vae(stages) if part == "vae" else sat_transformer(learned_positions)


def read_sat(path: str | Path) -> SatFile:
    """Read a SAT file, or a SAT training folder (``latest`` names the iteration inside).

    Raises CheckpointError when it is cut, is not one, or would have to run code to be read.
    """
    file = find_file(Path(path))
    values = load_pickled(file)
    extra = {name: value for name, value in values.items() if isinstance(value, (int, float, str))}
    for wrapper in WRAPPERS:
        inner = values.get(wrapper)
        if isinstance(inner, Mapping):
            values = dict(inner)
    odd = [str(name) for name, value in values.items() if not isinstance(name, str) or not is_plain(value)]
    if odd or not values:
        raise CheckpointError(
            f"{file}: {'entries that are not plain tensors: ' + few(odd) if odd else 'holds no tensors'}"
        )
    beside = [name for name in values if not name.startswith(PREFIX)]
    if beside and len(beside) < len(values):  # what SAT trains the network with, and saves along with it
        warnings.warn(
            f"{file}: {len(beside)} tensors beside the network are passed over: {few(beside)}", stacklevel=3
        )
        values = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    part = _part(file, values)
    kinds = {name: value.dtype for name, value in values.items()}
    check_floats({name: tuple(value.shape) for name, value in values.items()}, kinds, file)
    return SatFile(file, part, values, extra)


def find_file(path: Path) -> Path:
    """The weights file of a SAT path: itself, ``<latest>/mp_rank_00_model_states.pt``, or ``3d-vae.pt``."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        return path
    root, latest = link_root(path), path / "latest"
    if latest.exists():
        tag = read_small_text(latest, root=root, most=4096, error=CheckpointError).strip()
        if not tag or Path(tag).name != tag or tag == "..":
            raise CheckpointError(f"{latest}: {short(tag)} is not the name of a folder beside it")
        inner = path / tag
        held = [inner / name for name in (STATES, f"pytorch_model/{STATES}") if (inner / name).is_file()]
        if not held:
            raise CheckpointError(
                f"{latest}: names {tag}, but {inner / STATES} is missing; copy the folder again"
            )
        check_link(held[0], root, CheckpointError)
        return held[0]
    for name in (STATES, "3d-vae.pt"):
        if (path / name).is_file():
            check_link(path / name, root, CheckpointError)
            return path / name
    raise CheckpointError(f"{path}: not a SAT folder: holds neither 'latest', {STATES} nor 3d-vae.pt")


def is_sat(path: Path) -> bool:
    """Whether a path looks like one part of a SAT checkpoint; nothing is read."""
    if path.is_file():
        return path.suffix in SUFFIXES
    return any((path / name).is_file() for name in ("latest", STATES, "3d-vae.pt"))


def find_parts(folder: Path) -> dict[str, Path]:
    """The transformer and VAE of a whole SAT release, by part; empty when there is none."""
    parts: dict[str, Path] = {}
    for name, child in (
        ("transformer", "transformer"),
        ("transformer", "transformer_t2v"),
        ("transformer", "transformer_i2v"),
        ("vae", "vae"),
    ):
        place = folder / child
        if is_sat(place):
            if name in parts:
                raise CheckpointError(f"{folder}: holds {parts[name].name} and {child}; name one of them")
            parts[name] = place
    return parts


def write_sat(
    path: str | Path, part: Part, tensors: Mapping[str, Tensor], overwrite: bool = False, **extra: Any
) -> Path:
    """Write tensors under SAT names as the file SAT reads; returns it.

    ``path`` is the folder of the part: a transformer or adapter becomes ``latest`` and
    ``1/mp_rank_00_model_states.pt``, a VAE becomes ``3d-vae.pt``. Raises CheckpointError for NaN or Inf.
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        raise CheckpointError(f"{path}: not written: NaN or Inf in {few(bad)}")
    own = {name: owned(tensor) for name, tensor in tensors.items()}
    folder = Path(path)
    file = folder / "3d-vae.pt" if part == "vae" else folder / "1" / STATES
    with atomic_file(file, overwrite) as work:
        torch.save({"state_dict" if part == "vae" else "module": own, **extra}, work)
    if part != "vae":
        (folder / "latest").write_text("1", encoding="utf-8")
    return file


def _part(file: Path, names: Mapping[str, Tensor]) -> Part:
    shorts = [name.removeprefix(PREFIX) for name in names]
    if any(".matrix_A." in name or ".matrix_B." in name for name in shorts):
        return "lora"
    if any(name.startswith(("transformer.", "mixins.", "time_embed.")) for name in shorts):
        return "transformer"
    if any(name.startswith(("encoder.", "decoder.")) for name in shorts):
        return "vae"
    raise CheckpointError(f"{file}: neither a SAT transformer nor a SAT VAE: it holds {few(shorts)}")
