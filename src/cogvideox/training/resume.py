"""Whether a run may go on from the states in its folder: its settings must be those that it began with.

``run.yaml`` in the folder holds the settings of the run. Those marked ``MayChange`` where they are declared may differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.files import read_yaml
from cogvideox.files.atomic import write_text
from cogvideox.training.checkpoint.state import has_state
from cogvideox.training.config import TrainConfig
from cogvideox.training.task import MayChange

RECORD = "training.json"
"""The file in the folder of a result that is written last: settings, lineage, versions."""


def check_same_config(config: TrainConfig, out: Path) -> None:
    """Raise ConfigError when ``out`` holds states of a run with other settings, naming each with both values. Settings
    marked ``MayChange`` are not compared. Files of other origin under the names of a run's are not replaced."""
    file = out / "run.yaml"
    if not has_state(out):
        _check_free(out, type(config))
        return
    if not file.exists():
        raise ConfigError(
            f"{out}: holds states of a run, but no {file.name} that says which; choose another out=, or remove "
            "the folder"
        )
    then, here = _read(file, type(config)), config.model_dump(mode="json")
    changed = _changed(then, here, set(_may_change(config)))
    if [*changed] == ["steps"] and here["steps"] > then["steps"]:
        raise ConfigError(_more_steps(out, then, here))
    if changed:
        lines = [f"{name}: {before} -> {now}" for name, (before, now) in changed.items()]
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise ConfigError(
            f"{file}: holds a run with other settings ({'; '.join(lines[:3])}{more}); set them back to go on, or "
            "choose another out="
        )


def _may_change(config: Config, prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings that are marked ``MayChange``."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if MayChange in field.metadata:
            yield f"{prefix}{name}"
        elif isinstance(value, Config):
            yield from _may_change(value, f"{prefix}{name}.")


def _changed(
    then: Mapping[str, Any], here: Mapping[str, Any], may_change: set[str]
) -> dict[str, tuple[str, str]]:
    """The settings that differ and must not: name -> (before, now) as text."""
    before, now = _flat(then, may_change), _flat(here, may_change)
    beside = _start_beside(here)
    if beside is not None and beside == _start_beside(then):
        now["task.start"] = before["task.start"]  # a stage and the one before it were moved together
    unset = object()
    return {
        name: (_shown(before, name), _shown(now, name))
        for name in {**now, **before}
        if before.get(name, unset) != now.get(name, unset)
    }


def _check_free(out: Path, kind: type[TrainConfig]) -> None:
    """A folder without states may be of a run that ended before its first; other files of those names are not ours."""
    settings, figures = out / "run.yaml", out / "metrics.jsonl"
    ours = not os.path.lexists(settings) and not os.path.lexists(figures)
    if os.path.lexists(settings):
        try:
            ours = set(_read(settings, kind)) >= {"steps", "seed", "task"}
        except ConfigError:
            ours = False
    if not ours:
        name = settings.name if os.path.lexists(settings) else figures.name
        raise ConfigError(
            f"{out / name}: is of no run, so it is not replaced; choose another out=, or move it away"
        )


def _more_steps(out: Path, then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Steps are not free to change: the learning rate falls to its end at the last one. The ways to go on all the same.
    A run that is not finished has no result to start from."""
    before, now = then.get("steps"), here.get("steps")
    head = f"{out}: is a run of {before} steps, {now} asked for"
    task, result = here.get("task") or {}, out / "model"
    if not (result / RECORD).is_file():
        return f"{head}; its learning rate falls to its end at step {before}: set steps={before} to go on to there"
    if "start" not in task:
        return f"{head}; it is finished, train for {now} steps in another out="
    ways = [f"task.lora.start={result}"] if task.get("lora") else [f"task.start={result}"]
    begins = "the optimiser, the learning rate with its warm-up, the average of the weights and the order of the clips"
    return (
        f"{head}; it is finished, and its learning rate is at its end. To train on, start a new run from its result: "
        f"{' '.join(ways)} out=ANOTHER steps=MORE; {begins} begin anew (set another seed=, and a lower optim.lr)"
    )


def _read(file: Path, kind: type[TrainConfig]) -> dict[str, Any]:
    """Its settings; those that are new since it was written have their defaults."""
    try:
        return kind.from_yaml(file).model_dump(mode="json")
    except ConfigError as error:  # of another kind, or of another version
        try:
            values = read_yaml(file)
        except ConfigError:
            values = None
        if not isinstance(values, dict):
            raise ConfigError(
                f"{file}: cannot be read ({error}); put it back, or choose another out="
            ) from None
        return values


def _start_beside(values: Mapping[str, Any]) -> str | None:
    """Where ``task.start`` lies as seen from the folder around the run's; None when it is elsewhere."""
    start, around = (values.get("task") or {}).get("start"), Path(str(values.get("out", ""))).parent
    if not isinstance(start, str) or not Path(start).is_relative_to(around):
        return None
    return Path(start).relative_to(around).as_posix()


def _flat(values: Mapping[str, Any], may_change: set[str], prefix: str = "") -> dict[str, Any]:
    """By dotted name, without what may change; a folder is the same with and without a last slash."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in may_change:
            continue
        if isinstance(value, dict) and value:
            flat |= _flat(value, may_change, f"{name}.")
        else:
            flat[name] = value.rstrip("/") if isinstance(value, str) else value
    return flat


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = str(values.get(name, "not set"))
    return text if len(text) < 60 else f"{text[:57]}..."


def write_config(config: TrainConfig) -> None:
    """Write ``run.yaml`` into the run's folder: the settings of what is about to run."""
    write_text(Path(config.out) / "run.yaml", config.to_yaml())
