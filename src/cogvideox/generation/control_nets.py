"""The ControlNets of a run: checked against the model before a weight is read, loaded when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cogvideox.checkpoints.controlnet import load_controlnet, read_controlnet_config
from cogvideox.checkpoints.hub import find_folder
from cogvideox.errors import ConfigError
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.model import CogVideoX
from cogvideox.spec import ModelSpec
from cogvideox.transformer.controlnet import TIME_RATIO, Control, ControlNetConfig


def control_net_for(spec: ModelSpec, entry: ControlNetEntry) -> ControlNetConfig:
    """The settings of a ControlNet, which must fit a model; nothing is downloaded and no weight read.

    Raises ConfigError for one of another model, CheckpointError for what is none.
    """
    config = read_controlnet_config(entry.path)
    why = config.why_not(spec.transformer)
    ratios = spec.vae.spatial_compression_ratio, spec.vae.temporal_compression_ratio
    if not why and ratios != (config.downscale_coef, TIME_RATIO):
        why = (
            f"folds {config.downscale_coef} pixels and {TIME_RATIO} frames into a latent, the model {ratios}"
        )
    if why:
        raise ConfigError(
            f"control_net {entry.path}: {why}: it was trained for another model than {spec.name or 'this one'}; take "
            "the one for this size"
        )
    return config


def fetch_control_nets(entries: Sequence[ControlNetEntry], download: bool = True) -> None:
    """Download those that are hub ids and not here yet. Raises CheckpointError for what is nowhere."""
    for entry in entries:
        find_folder(entry.path, download=download)


def load_control_nets(
    model: CogVideoX, entries: Sequence[ControlNetEntry], *, read_weights: bool = True, digests: bool = True
) -> None:
    """Load the ControlNets that the model has not yet, in its precision, beside its transformer.

    Raises ConfigError for a model whose weights visit the device: they must be there before ``memory.offload``.
    """
    missing = dict.fromkeys(entry.path for entry in entries if entry.path not in model.control_nets)
    if missing and model.compute_device is not None:
        raise ConfigError(
            f"control_net {next(iter(missing))}: the weights of this model visit the device; put the ControlNet on it "
            "before that: model.control_nets[path] = checkpoints.load_controlnet(path, model.dtype), then offload"
        )
    for path in missing:
        device = next(model.transformer.parameters()).device if read_weights else "cpu"
        model.control_nets[path] = load_controlnet(
            path, model.dtype, device, read_weights=read_weights, digests=digests
        )


def facts_of(entries: Sequence[ControlNetEntry], controls: Sequence[Control]) -> list[dict[str, Any]]:
    """What the record of a video says of each ControlNet: its name, files, strength and share of the steps."""
    return [
        {
            "name": entry.path.rstrip("/").rpartition("/")[2],
            "weights": control.network.weights,
            "strength": control.strength,
            "start": control.start,
            "stop": control.stop,
        }
        for entry, control in zip(entries, controls, strict=True)
    ]
