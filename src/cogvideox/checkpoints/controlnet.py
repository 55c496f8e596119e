"""A ControlNet from its folder (``config.json`` and weights, as published) or from one safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch

from cogvideox.checkpoints.families import CONTROL_CLASSES, check_floats
from cogvideox.checkpoints.fill import assign, assign_later, check_names, to_dtype
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.misplaced import belongs, belongs_after
from cogvideox.checkpoints.network_files import read_network, read_network_file
from cogvideox.checkpoints.shapes import controlnet_settings
from cogvideox.checkpoints.specs import STEM, parse_config
from cogvideox.checkpoints.tensors import Tensors, read_json, shapes_of
from cogvideox.errors import CheckpointError
from cogvideox.files.digest import sha256_of
from cogvideox.transformer.controlnet import ControlNet, ControlNetConfig


def read_controlnet_config(path: str | Path, download: bool = False) -> ControlNetConfig:
    """The settings of a ControlNet, of a folder, a file or a hub id; no weight is read.

    Names and shapes of its tensors are compared with them. ``download``: whether a hub id may be fetched. Raises
    CheckpointError for what is none, or is damaged, ConfigError for settings that make no sense.
    """
    where = find_folder(path, download=download)
    tensors = _tensors(where)
    config = _config(where, tensors)
    with torch.device("meta"):
        check_names(shapes_of(ControlNet(config).state_dict()), shapes_of(tensors), str(where))
    check_floats(tensors, where)
    return config


def load_controlnet(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    read_weights: bool = True,
    digests: bool = True,
) -> ControlNet:
    """A ControlNet from a folder, a file or a hub id; ``dtype`` None keeps what is stored.

    ``read_weights`` false leaves the weights in their files, for ``memory.offload``. ``digests`` false leaves their
    SHA-256 out of the records of its videos. Raises CheckpointError, ConfigError.
    """
    where = find_folder(path)
    tensors = _tensors(where)
    check_floats(tensors, where)
    with torch.device("meta"):
        network = ControlNet(_config(where, tensors))
    wanted = to_dtype(dtype)
    if read_weights:
        assign(network, tensors, str(where), wanted, device)
    else:
        assign_later(network, tensors, str(where), lambda name: wanted)
    if digests:
        files = sorted({entry.file for entry in tensors.entries.values()})
        network.weights = {file.name: sha256_of(file) for file in files}
    return network.eval()


def is_controlnet(tensors: Tensors) -> bool:
    """Whether these are the tensors of a ControlNet."""
    return "controlnet_encode_first.0.weight" in tensors


def _tensors(where: Path) -> Tensors:
    """The tensors of a folder or file. Raises CheckpointError for another network."""
    if (where / "model_index.json").is_file():
        raise CheckpointError(f"{where}: holds no ControlNet; {belongs(where)}")
    tensors = read_network_file(where) if where.is_file() else read_network(where, STEM)
    if not is_controlnet(tensors):
        do = belongs_after(where, "give the folder or the safetensors file of one")
        raise CheckpointError(f"{where}: holds no ControlNet: no controlnet_encode_first in it; {do}")
    return tensors


def _config(where: Path, tensors: Tensors) -> ControlNetConfig:
    """What ``config.json`` says, or the shapes of a file without one."""
    file = where / "config.json" if where.is_dir() else where.parent / "config.json"
    values = read_json(file) if file.is_file() else {}
    if values.get("_class_name") in CONTROL_CLASSES or "vae_channels" in values:
        return parse_config(ControlNetConfig, values, file)
    if not (settings := controlnet_settings(shapes_of(tensors))):
        raise CheckpointError(
            f"{where}: damaged: its ControlNet has no patch_embed and time_embedding; copy it again"
        )
    return ControlNetConfig.parse(settings, str(where))
