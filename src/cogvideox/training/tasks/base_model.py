"""What a fine-tuning takes from the model it starts from where settings are left open: networks, sizes, precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from cogvideox.checkpoints.hub import HUB_ID, cached, find_folder
from cogvideox.checkpoints.kinds import OF_FUN
from cogvideox.checkpoints.record import RECORD
from cogvideox.checkpoints.specs import read_spec
from cogvideox.cpu_ops import half_is_native
from cogvideox.device import best_device
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.presets import PRESETS
from cogvideox.spec import Kind, ModelSpec, condition_channels, conditions_of, kind_of, kinds_of
from cogvideox.training.tasks.diffusion_settings import WORLD_TEXT, WORLD_VAE, DiffusionSettings
from cogvideox.training.tasks.sizes import SizeSetting, default_budget
from cogvideox.transformer import TransformerConfig

LARGE = 1e9
"""Weights from which on blocks are recomputed and a frozen base is bfloat16, where the settings leave it open."""

Settings = TypeVar("Settings", bound=DiffusionSettings)


def completed(task: Settings, fetch: bool = False) -> Settings:
    """The settings with everything filled in that ``task.start`` decides; no weight is loaded.

    ``fetch``: a hub model that is neither a preset nor on this machine is downloaded; otherwise what it decides
    stays open.
    """
    base = base_of(task, fetch)
    vae, text = (named or task.start for named in (task.vae, task.text))
    changes: dict[str, Any] = {"vae": vae or WORLD_VAE, "text": text or WORLD_TEXT}
    if base is not None and base.kind in OF_FUN:
        _check_settings_known(task)
    if task.model_kind is not None and task.transformer is None and base is not None:
        changes["transformer"] = widened(base, task)
    large = base is not None and approximate_weights(base) > LARGE
    if task.recompute is None:
        changes["recompute"] = large
    if task.lora is not None and task.lora.base is None:
        changes["lora"] = task.lora.changed(base="bfloat16" if large else "float32")
    if task.data is not None:
        size = task.data.size.resolved(base)
        budget = task.data.budget or (default_budget(size, base) if base is not None else 25_000)
        changes["data"] = task.data.changed(size=SizeSetting.of(size), budget=budget)
    return task.changed(**changes)


def default_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the device that trains has units for it: on a CPU without them a step takes many times as long."""
    return "bf16" if best_device() != "cpu" or half_is_native(torch.bfloat16) else "fp32"


def base_of(task: DiffusionSettings, fetch: bool = False) -> ModelSpec | None:
    """The model that is trained: that of ``start`` or ``preset``, with the task's own network; None: not known."""
    base = local_settings(task.start, fetch) if task.start is not None else None
    if base is None and task.preset in PRESETS:
        base = PRESETS[task.preset]
    if base is None or (task.transformer is None and task.model_kind is None):
        return base
    network = task.transformer or widened(base, task)
    conditions = conditions_of(network, kind_trained(task, network, base))
    return replace(base, transformer_settings=network.model_dump(mode="json"), conditions=conditions)


def widened(base: ModelSpec, task: DiffusionSettings) -> TransformerConfig:
    """The network of ``base`` with the input channels of ``task.model_kind``; raises ConfigError where it cannot be."""
    kind, network = task.model_kind, base.transformer
    assert kind is not None
    channels = network.out_channels + condition_channels(kind, network.out_channels)
    if kind == base.kind:
        return network
    if base.kind != "t2v":
        raise ConfigError(
            f"task.model_kind {kind}: {task.start or task.preset} is {base.kind}; start from a text-to-video model, or "
            f"from one that is {kind} already"
        )
    if task.lora is not None:
        raise ConfigError(
            f"task.lora and task.model_kind {kind}: an adapter leaves the new input channels at zero, so that "
            f"nothing of the condition is read; train all weights (task.lora=null), or start from one that is {kind}"
        )
    return network.changed(in_channels=channels)


def _check_settings_known(task: DiffusionSettings) -> None:
    """Raise ConfigError for a folder of VideoX-Fun as the start, whose files leave out settings it was trained by."""
    folder = local_folder(task.start) if task.start is not None else None
    if folder is not None and not (folder / RECORD).is_file():
        raise ConfigError(
            f"task.start {task.start}: a folder of VideoX-Fun, whose files leave out settings; write them out first: "
            f"cogvideox convert {task.start} OUT, and start from OUT"
        )


def kind_trained(task: DiffusionSettings, network: TransformerConfig, base: ModelSpec | None = None) -> Kind:
    """The kind of model that a run makes: the one asked for, that of ``base`` (default: of the model it starts from)
    where the network has its channels, or the likeliest one by them. Raises ConfigError for one that is not trained."""
    if task.model_kind is not None:
        conditions_of(network, task.model_kind)
        return task.model_kind
    if base is None and task.start is not None:
        base = local_settings(task.start)
    kind = base.kind if base is not None and base.kind in kinds_of(network) else kind_of(network)
    if kind == "removal":
        raise ConfigError(
            "task.start: a model that removes is not trained here: it would need each clip with and without what goes"
        )
    return kind


def local_settings(name: str, fetch: bool = False) -> ModelSpec | None:
    """The settings of a preset, a folder or a download; None where they are not on this machine."""
    if name in PRESETS and not Path(name).exists():
        return PRESETS[name]
    known = next((preset for preset in PRESETS.values() if preset.hub == name), None)
    if known is not None and not Path(name).exists():
        return known
    folder = local_folder(name)
    if folder is None and fetch and HUB_ID.fullmatch(name):
        folder = find_folder(name)
    return read_spec(folder) if folder is not None and (folder / "model_index.json").is_file() else None


def local_folder(name: str) -> Path | None:
    """The folder of a model that is on this machine: a path, a shipped one, or a complete earlier download."""
    if Path(name).expanduser().exists():
        return Path(name).expanduser()
    hub = PRESETS[name].hub if name in PRESETS else name
    if hub is None or not HUB_ID.fullmatch(hub):
        try:
            return find_folder(name)  # shipped: no id, so nothing is downloaded
        except CheckpointError:
            return None
    return cached(hub)


def approximate_weights(model: ModelSpec) -> float:
    """Number of weights of a transformer, about: those of its blocks' matrices."""
    config = model.transformer
    return 12.0 * config.num_layers * config.width**2
