"""The weights of one network from its folder or its single file: safetensors or GGUF, plain or quantised."""

from __future__ import annotations

from pathlib import Path

from cogvideox.checkpoints.gguf_file import is_gguf, read_gguf
from cogvideox.checkpoints.quantised import quantised
from cogvideox.checkpoints.tensors import Tensors, link_root, read_file, read_folder
from cogvideox.errors import CheckpointError
from cogvideox.files import check_link


def read_network(folder: str | Path, stem: str, variant: str | None = None) -> Tensors:
    """The tensors of a network's folder: ``<stem>.safetensors``, its shards, or the only weights file there is.

    Quantised weights are found and described (``quantised``). Raises CheckpointError as ``read_folder``.
    """
    folder = Path(folder)
    usual = any(folder.glob(f"{stem}*.safetensors*"))
    files = [] if usual else [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    if len(files) != 1:
        return quantised(read_folder(folder, stem, variant))
    return read_network_file(files[0], link_root(folder))


def read_network_file(path: str | Path, root: Path | None = None) -> Tensors:
    """The tensors of a single file, under the names that it gives them; its links must not lead out of ``root``.

    Raises CheckpointError, DependencyError.
    """
    path = Path(path)
    if root is not None:
        check_link(path, root, CheckpointError)
    return read_gguf(path) if is_gguf(path) else quantised(read_file(path, root))
