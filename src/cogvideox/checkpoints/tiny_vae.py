"""The weights of a tiny autoencoder (taecvx): one safetensors file, known by its names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cogvideox.checkpoints.fill import assign
from cogvideox.checkpoints.misplaced import belongs_after
from cogvideox.checkpoints.tensors import read_file
from cogvideox.errors import CheckpointError
from cogvideox.vae.tiny import TimeGrow, TinyVAE


def load_tiny_vae(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> TinyVAE:
    """A tiny autoencoder from its file (``taecvx.safetensors``). Raises CheckpointError for any other file.

    A file that makes more frames of one than taecvx has more rows in those layers; the last ones are used.
    """
    file = Path(path)
    if not file.is_file():
        why = "is a folder" if file.is_dir() else "no such file"
        do = belongs_after(file, "give the tiny autoencoder's safetensors file")
        raise CheckpointError(f"{file}: {why}; {do}")
    stored = read_file(file)
    if "encoder.0.weight" not in stored or "decoder.1.weight" not in stored:
        do = belongs_after(file, "give taecvx.safetensors")
        raise CheckpointError(
            f"{file}: holds no tiny autoencoder (taecvx): no encoder.0 and decoder.1 in it; {do}"
        )
    with torch.device("meta"):
        network = TinyVAE()
    rows = {
        f"decoder.{number}.conv.weight": layer.conv.weight.shape[0]
        for number, layer in enumerate(network.decoder)
        if isinstance(layer, TimeGrow)
    }
    tensors: dict[str, Tensor] = {
        name: stored[name][-rows[name] :] if name in rows else stored[name] for name in stored
    }
    return assign(network, tensors, str(file), dtype, device).eval()
