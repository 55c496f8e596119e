"""Settings that an adapter or a published recipe asks for: few-step adapters are nothing without theirs.

They stand in a ``.json`` beside the adapter's file, under the key ``recommended``, or in ``SETTINGS_PRESETS`` under a
name. What a user asks for wins over a preset, and a preset over an adapter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.checkpoints.adapter_settings import KEY, recommended_beside, recommended_file
from cogvideox.checkpoints.hub import exists, origin_of, read_reference
from cogvideox.config import Config
from cogvideox.diffusion.schedule import check_falling
from cogvideox.errors import CheckpointError, ConfigError, suggest
from cogvideox.files.atomic import write_json
from cogvideox.generation.options import SAMPLER_NAMES, GenerateOptions, check_steps, list_of_numbers
from cogvideox.strength import Strength, split_strength


class Recommended(Config):
    """What an adapter was made for. What is None is not recommended; names and values are those of GenerateOptions."""

    numbers_as_text = True  # times are typed with commas between

    about: str = Field("", description="one line for people")
    scale: float | None = Field(None, gt=-100, lt=100, description="how strongly the adapter is applied")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    times: tuple[int, ...] | None = Field(None, description="the times that are visited, instead of steps")
    sampler: Literal["ddim", "dpmpp_2m", "dpmpp_sde"] | None = Field(None, description="how a step is made")
    previous: Literal["released", "corrected"] | None = Field(None, description="where a step ends")
    guidance: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="how strongly to follow the prompt"
    )
    guidance_schedule: Literal["constant", "wave", "cosine"] | None = Field(
        None, description="guidance over the steps"
    )

    @field_validator("sampler", mode="before")
    @classmethod
    def _full_name(cls, name: Any) -> Any:
        return SAMPLER_NAMES.get(name, name) if isinstance(name, str) else name

    @field_validator("times", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return None if value is None else list_of_numbers(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Raises ConfigError for times that do not fall, and for steps beside them."""
        check_falling(self.times or ())
        if self.steps is not None:
            check_steps({"times": self.times}, ["steps"])
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The options that are recommended."""
        return {
            name: value for name, value in self if value is not None and name in GenerateOptions.model_fields
        }


@dataclass(frozen=True)
class SettingsPreset:
    """A published way to use a model with few steps: the model and the adapter it is for, and the settings."""

    model: str
    adapter: str
    recommended: Recommended


SETTINGS_PRESETS = {
    "tdm-2b": SettingsPreset(
        "2b",
        "Luo-Yihong/TDM_CogVideoX-2B_LoRA",
        Recommended(
            about="4 steps, no second branch (TDM)", times=(999, 856, 665, 399), sampler="ddim", guidance=1, scale=1
        ),
    ),
    "blade-5b": SettingsPreset(
        "5b",
        "GYP666/BLADE",
        Recommended(
            about="8 steps, no second branch (BLADE, here with full attention, which its authors have not tested)",
            steps=8, sampler="dpmpp_sde", guidance=1, scale=1,
        ),
    ),
}  # fmt: skip


def get_settings_preset(name: str) -> SettingsPreset:
    """A preset of settings by its name. Raises ConfigError for one that does not exist."""
    if name not in SETTINGS_PRESETS:
        known = ", ".join(SETTINGS_PRESETS)
        raise ConfigError(f"preset {name!r}: unknown{suggest(name, SETTINGS_PRESETS)}; choose one of {known}")
    return SETTINGS_PRESETS[name]


def read_recommended(adapter: str | Path) -> Recommended | None:
    """What stands beside an adapter; None where nothing does. Raises ConfigError for settings that cannot be."""
    values = recommended_beside(adapter)
    return None if values is None else Recommended.parse(values, f"{recommended_file(adapter)}: {KEY}")


def write_recommended(adapter: str | Path, recommended: Recommended, overwrite: bool = False) -> Path:
    """Write settings beside an adapter, where ``generate`` finds them. Raises ConfigError or OutputError."""
    values = recommended.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return write_json(recommended_file(adapter), {KEY: values}, overwrite)


def merged(
    given: Mapping[str, Any], preset: str, adapters: Sequence[tuple[str, Strength]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of a run with what is recommended for it, and where each that was not given comes from.

    Steps and times are one choice. Warns where an adapter of few steps is given others. Raises ConfigError where two
    adapters disagree and nobody says which counts.
    """
    wanted = [
        (f"adapter {called(path)}", found)
        for path, _ in adapters
        if (found := read_recommended(path)) is not None
    ]
    return _filled(given, preset, wanted)


def recommended_on(adapters: Sequence[Mapping[str, Any]]) -> list[tuple[str, Recommended]]:
    """What is recommended for each adapter on a model, by what is noted there (``CogVideoX.adapters``).

    Raises ConfigError for settings that cannot be.
    """
    named = [(f"adapter {note['name']}", note[KEY]) for note in adapters if KEY in note]
    return [(name, Recommended.parse(values, f"{name}: {KEY}")) for name, values in named]


def filled_in(options: GenerateOptions, wanted: Sequence[tuple[str, Recommended]]) -> GenerateOptions:
    """``merged`` for options, whose fields that were set are what was given. Raises ConfigError."""
    given = {name: getattr(options, name) for name in options.model_fields_set}
    if options.times:
        given.pop("steps", None)  # counted from the times
    values, sources = _filled(given, "", wanted)
    return options.changed(**{name: values[name] for name in sources}) if sources else options


def _filled(
    given: Mapping[str, Any], preset: str, wanted: Sequence[tuple[str, Recommended]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """``merged``, with what each adapter asks for."""
    check_steps(given, given)
    values, sources = dict(given), dict[str, str]()
    if preset:
        wanted = [(f"preset {preset}", get_settings_preset(preset).recommended), *wanted]
    for source, recommended in wanted:
        if source != f"preset {preset}":
            _warn_of_left(source, recommended, given)
        for name, value in recommended.settings.items():
            other = {"steps": "times", "times": "steps"}.get(name, name)
            before = sources.get(name) or sources.get(other)
            if before is None and name not in values and other not in values:
                values[name], sources[name] = value, source
            elif before not in (None, source, f"preset {preset}") and values.get(name) != value:
                flag = name.replace("_", "-")
                raise ConfigError(
                    f"{name}: {before} is made for {values.get(name, values.get(other))!r}, {source} for {value!r}; "
                    f"give --{flag} to say which counts"
                )
    return values, sources


def _warn_of_left(source: str, made_for: Recommended, given: Mapping[str, Any]) -> None:
    """Warn where an adapter of few steps, called ``source``, is given other steps, guidance or sampler than its own."""
    count = len(made_for.times or ()) or made_for.steps
    if count is None:
        return
    names = ("steps", "times", "guidance", "sampler")
    try:
        asked = Recommended.parse({name: given[name] for name in names if given.get(name) is not None})
    except ConfigError:  # said where all options are checked
        return
    left = []
    if asked.times is not None and asked.times != made_for.times:
        left.append(f"times {','.join(map(str, asked.times))}")
    if asked.steps is not None and (made_for.times is not None or asked.steps != made_for.steps):
        left.append(f"steps {asked.steps}")
    if asked.guidance is not None and made_for.guidance is not None:
        left += (
            [f"guidance {asked.guidance:g}"] if max(asked.guidance, 1) != max(made_for.guidance, 1) else []
        )
    if asked.sampler is not None and made_for.sampler not in (None, asked.sampler):
        left.append(f"sampler {asked.sampler}")
    if left:
        own = f"times {','.join(map(str, made_for.times))}" if made_for.times else f"{count} steps"
        own += f" with guidance {made_for.guidance:g}" if made_for.guidance is not None else ""
        warnings.warn(
            f"{', '.join(left)}: {source} was made for {own}, and others may break the picture", stacklevel=4
        )


def called(adapter: str | Path) -> str:
    """An adapter as it was typed, for messages: its path, or ``owner/name:file`` of the hub."""
    origin = origin_of(Path(adapter))
    return f"{origin['repository']}:{Path(adapter).name}" if origin else str(adapter)


def without_folders(sources: Mapping[str, str]) -> dict[str, str]:
    """Where settings come from (``merged``), for records of videos: folders tell about people."""
    return {name: Path(source.removeprefix("adapter ")).name for name, source in sources.items()}


def usual_scale(adapter: str | Path) -> float:
    """How strongly an adapter is applied where nobody says it: as recommended beside it, or 1. Raises ConfigError."""
    found = read_recommended(adapter)
    return 1.0 if found is None or found.scale is None else found.scale


def read_adapter_flag(text: str, download: bool = True) -> tuple[str, Strength]:
    """Path and strength of an adapter given as ``NAME`` or ``NAME:STRENGTH``; without one the recommended, or 1.

    NAME: a file, a folder, or ``owner/name[:file][@revision]`` of the hub, which is downloaded where ``download``
    allows it. STRENGTH: such as 0.8, or 0.8@0-0.6 for a part of the steps. Raises ConfigError, CheckpointError.
    """
    name, strength = (text, None) if exists(Path(text)) else split_strength(text)
    head, _, tail = name.rpartition(":")
    if strength is None and head and exists(Path(head)):
        raise ConfigError(f"lora {text!r}: {tail!r} is not a scale; write PATH:0.8, or PATH:0.8@0-0.6")
    if read_reference(name) is not None:
        path = str(find_adapter(name, download))
    elif "\0" in name or not exists(Path(name)):
        raise CheckpointError(f"lora {name}: no such file or folder; check the path")
    else:
        path = name
    return path, Strength.of(usual_scale(path)) if strength is None else strength
