"""Weights from a user's file into a network: read without running code from it, refused when they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import CheckpointError
from cogvideox.files.text import open_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTER = "num_batches_tracked"  # of batch norms: only training reads it, and old files lack it


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """name -> tensor of a .safetensors file, or of a .pt/.pth file of plain tensors. Raises CheckpointError."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .safetensors or .pth file of weights")
    found = _read(path)
    if not isinstance(found, Mapping) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise CheckpointError(f"{path}: not a table of tensors; give a .safetensors file")
    return dict(found)


def fill(network: nn.Module, weights: Mapping[str, Tensor], where: str, what: str) -> None:
    """Give ``network`` these weights as float32; it may be on the meta device.

    ``where`` (the file) and ``what`` (the network) are for messages. Raises CheckpointError that names the first
    tensors that do not fit.
    """
    wanted = network.state_dict()
    given = {name: value for name, value in weights.items() if not name.endswith(COUNTER)}
    missing = sorted(name for name in wanted if name not in given and not name.endswith(COUNTER))
    unknown = sorted(given.keys() - wanted.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{where}: not the weights of {what}: {len(missing)} tensors missing{_first(missing)}, "
            f"{len(unknown)} unknown{_first(unknown)}; give another file"
        )
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where}: not the weights of {what}: {name} is {list(value.shape)}, "
                f"it takes {list(wanted[name].shape)}; give another file"
            )
    counters = {
        name: value.new_zeros((), device="cpu") for name, value in wanted.items() if name.endswith(COUNTER)
    }
    network.load_state_dict({name: value.float() for name, value in given.items()} | counters, assign=True)


def _first(names: list[str]) -> str:
    return f" ({names[0]})" if names else ""


def _read(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open_regular(path, most=64 << 30, error=CheckpointError):
        pass  # opening a pipe the plain way would wait for ever
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError, EOFError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot be read ({why}); give a .safetensors file") from None
    except Exception as error:  # unpickling refuses in many ways: each means that these are not plain tensors
        raise CheckpointError(
            f"{path}: not plain tensors ({type(error).__name__}); give a .safetensors file"
        ) from None
