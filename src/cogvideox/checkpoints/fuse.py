"""A model folder with adapters in its weights: whoever loads it needs none. diffusers loads it too."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from cogvideox.checkpoints.adapter_settings import recommended_beside
from cogvideox.checkpoints.diffusers import ShardSize, load_stored, write_model
from cogvideox.checkpoints.folders import checkpoint_folder, copy_text
from cogvideox.checkpoints.lora import load_lora, merge_lora
from cogvideox.checkpoints.record import ModelRecord, read_record
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import CheckpointError
from cogvideox.files import short
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.spec import ModelSpec
from cogvideox.strength import Strength


def fuse_adapters(
    source: Path,
    target: Path,
    adapters: Sequence[tuple[str | Path, float | str | Strength]],
    settings: Mapping[str, Any] | None = None,
    *,
    alpha: float | None = None,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
) -> None:
    """Write a model folder with adapters added into its transformer, in the order in which they are given.

    The sums are made in float32 and stored in the precision of the weights, quantised ones as plain numbers; all else
    is as it was, and ``cogvideox.json`` says what was added. ``settings``: what the result is made for, see
    ``made_for``; None leaves it as the model was, with a warning where an adapter recommends some. ``alpha`` is that of
    adapters whose files do not say theirs. Raises CheckpointError for a source that is no model folder, a strength that
    changes over the steps, and adapters that do not fit; ConfigError for settings that make no sense, OutputError when
    the target is taken.
    """
    if not (source / "model_index.json").is_file():
        raise CheckpointError(
            f"lora: adapters are added to a model folder; {source} is none, convert it first"
        )
    strengths = [(path, Strength.of(strength)) for path, strength in adapters]
    for path, strength in strengths:
        if strength.constant is None:
            raise CheckpointError(
                f"lora {path}: strength {strength} changes over the steps; give it one number"
            )
    with checkpoint_folder(
        target, overwrite
    ) as folder:  # a target that is taken is refused before anything is read
        record = read_record(source)
        model = load_stored(source, record, text=False)
        if settings is None:
            _warn_of_recommended([path for path, _ in strengths])
        model.spec = made_for(model.spec, settings or {})
        make_plain(model.transformer)
        for path, strength in strengths:
            load_lora(model, path, strength, alpha=alpha)
        merge_lora(model)
        copy_text(source, folder)
        before = record.provenance.get("fused")
        fused = [*(before if isinstance(before, list) else []), *model.adapters]
        provenance = {**record.provenance, "fused": fused}
        write_model(folder, model, shard_size, provenance=provenance, dtype=record.dtype)


def made_for(spec: ModelSpec, settings: Mapping[str, Any]) -> ModelSpec:
    """The spec of a model that is made for these settings, in the names of ``generate``: times or steps, sampler,
    guidance.

    Steps become the times that they visit, as a model of few steps has them; each then ends at the next. Settings that
    a model cannot have as its own are named in a warning. Raises ConfigError for times that the schedule has not.
    """
    held = {
        name: settings[name] for name in ("times", "sampler", "guidance") if settings.get(name) is not None
    }
    known, steps = ModelRecord.parse(held, "settings"), settings.get("steps")
    times = known.times or (tuple(Schedule(spec.schedule).timesteps(steps)) if steps is not None else ())
    spec.schedule.check_times(times)
    changes: dict[str, Any] = {"times": times, "sampler": "ddim"} if times else {}
    if known.sampler is not None and (times or spec.times):
        changes["sampler"] = known.sampler
    if known.guidance is not None:
        changes["guidance"] = known.guidance
    said = {"steps", *changes} | ({"previous"} if times else set())
    lost = {name: value for name, value in settings.items() if value is not None and name not in said}
    if lost:
        shown = ", ".join(f"{name} {short(value)}" for name, value in lost.items())
        warnings.warn(
            f"lora: {shown}: recommended, and no setting that a model has of its own; give it to generate",
            stacklevel=4,
        )
    return replace(spec, **changes)


def _warn_of_recommended(adapters: Sequence[str | Path]) -> None:
    """Warn of settings beside adapters that the model with them in its weights does not get."""
    for path in adapters:
        values = recommended_beside(Path(path)) or {}
        if missed := {name: value for name, value in values.items() if name not in ("scale", "about")}:
            warnings.warn(
                f"lora {path}: made for {short(missed)}, which the model does not get; pass settings=, such as "
                "those that generation.recommended.merged reads",
                stacklevel=4,
            )


def make_plain(network: nn.Module) -> None:
    """Numbers instead of quantised weights, which take nothing in."""
    for layer in network.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            if isinstance(weight, QuantisedTensor):
                layer.register_parameter(name, nn.Parameter(weight.dequantize(), requires_grad=False))
