"""Models that were distilled to few steps, and adapters on a model: warnings of a run that leaves what they learned.

A distilled model has its times in its record (``ModelSpec.times``), a distilled adapter in its recommended settings.
What an adapter was trained on stands in the ``training.json`` beside it, by name: no digest of those weights is there,
so only models of other names, or of other times, are known to be others.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.adapter_settings import recommended_file
from cogvideox.checkpoints.folders import read_training
from cogvideox.checkpoints.hub import find_folder, released
from cogvideox.checkpoints.record import read_record
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import CogVideoXError
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.recommended import called, read_recommended
from cogvideox.presets import PRESETS
from cogvideox.spec import ModelSpec
from cogvideox.strength import Strength

Adapters = Sequence[tuple[str, Strength]]


def warn_of_left_settings(spec: ModelSpec, options: GenerateOptions, name: str) -> None:
    """Warn where a distilled model, called ``name``, is asked for other steps, guidance or sampler than its own.

    ``options``: as they were asked for, before the model's own were filled in.
    """
    if not spec.times:
        return
    asked, left, made_for = options.model_fields_set, list[str](), f"{len(spec.times)} steps"
    if asked & {"steps", "times"}:
        visited = options.times or tuple(Schedule(spec.schedule).timesteps(options.steps))
        if visited != spec.times:
            shown = f"times {_listed(visited)}" if options.times else f"steps {options.steps}"
            if len(visited) == len(spec.times) and not options.times:
                shown += f" (times {_listed(visited)})"
            if options.times or len(visited) == len(spec.times):
                made_for = f"times {_listed(spec.times)}"
            left.append(shown)
    own = spec.guidance
    made_for += f" with guidance {own:g}"
    if options.guidance is not None and max(options.guidance, 1.0) != max(own, 1.0):  # 1 or less is none
        left.append(f"guidance {options.guidance:g}")
    if asked & {"steps", "times", "sampler"} and options.sampler != spec.sampler:
        left.append(f"sampler {options.sampler}")
        made_for += f" and sampler {spec.sampler}"
    if left:
        warnings.warn(
            f"{', '.join(left)}: {name} was distilled for {made_for}, and others may break the picture; leave steps, "
            "times, guidance and sampler out, or take the model that it was distilled from",
            stacklevel=3,
        )


def bring_settings(preset: str, adapters: Adapters) -> bool:
    """Whether a preset or an adapter has settings of its own, which take the place of the model's."""
    found = (read_recommended(path) for path, _ in adapters)
    return bool(preset) or any(each is not None and each.settings for each in found)


def warn_of_adapters(adapters: Adapters, spec: ModelSpec, folder: Path, name: str) -> None:
    """Warn of each adapter that was trained on another model than this one in ``folder``, called ``name``, and of one
    of few steps on a model that was distilled itself."""
    for path in dict(adapters):
        base, own = _Base.of(path), _steps_of(path, spec)
        other = None if base is None else base.is_other(spec, folder)
        if own and other is not False:
            best = base.name + ", which" if base is not None else "the model of many steps that"
            warnings.warn(
                f"lora {called(path)}: made for {own} steps of its own, and {name} was distilled for {len(spec.times)} "
                f"already: both together break the picture; take {best} the adapter was trained on",
                stacklevel=3,
            )
        elif base is not None and other:
            warnings.warn(
                f"lora {called(path)}: trained on {base.name}, and {name} is another model; expect worse videos, or "
                f"take {base.name}",
                stacklevel=3,
            )


def _listed(times: Sequence[int]) -> str:
    return ",".join(map(str, times))


def _steps_of(path: str, spec: ModelSpec) -> int:
    """How many steps of its own an adapter would have a distilled model make; 0: none, or the model's."""
    recommended = read_recommended(path) if spec.times else None
    if recommended is None or recommended.times == spec.times:
        return 0
    return len(recommended.times or ()) or recommended.steps or 0


@dataclass(frozen=True)
class _Base:
    """The model that an adapter was trained on: as it was named, its row of the presets ("": none), its folder where it
    is here, and its own times."""

    name: str
    preset: str
    folder: Path | None
    times: tuple[int, ...]

    @classmethod
    def of(cls, adapter: str) -> _Base | None:
        """By the record of training beside an adapter; None where there is none, or its model is not here."""
        try:
            record = read_training(recommended_file(adapter).parent)
        except CogVideoXError:
            return None
        task = _at(record, "config", "task")
        if not isinstance(_at(task, "lora"), dict):  # of a whole model, in whose folder an adapter lies
            return None
        for name in (_at(task, "start"), _at(record, "inputs", "start")):
            known = cls.named(name) if isinstance(name, str) else None
            if known is not None:
                return known
        return None

    @classmethod
    def named(cls, name: str) -> _Base | None:
        """The model that was called so; None where it is neither here nor a released one."""
        row = PRESETS.get(name) or released(name)
        try:
            folder = find_folder(name, download=False)
            record = read_record(folder)
        except CogVideoXError:
            return None if row is None else cls(name, row.name, None, row.times)
        preset = record.preset or (row.name if row is not None else "")
        return cls(name, preset, folder, record.times or ())

    def is_other(self, spec: ModelSpec, folder: Path) -> bool | None:
        """Whether the model of this spec and folder is another one; None where that cannot be known."""
        if self.folder is not None and self.folder.resolve() == folder.resolve():
            return False
        if not (self.preset and spec.name):
            return None
        return (self.preset, self.times) != (spec.name, spec.times)


def _at(value: Any, *names: str) -> Any:
    """What stands under these names in values of a file; None where nothing does."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
