"""What others have published for CogVideoX: checkpoints and add-ons, with licence and use; from ``published.yaml``.

docs/models.md shows all of it. The alpha of public adapters whose files do not say it is read from here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvideox.checkpoints.hub import origin_of
from cogvideox.checkpoints.kinds import OF_FUN, fun_settings
from cogvideox.config import Config
from cogvideox.files import read_yaml
from cogvideox.presets import get_preset
from cogvideox.spec import Kind, ModelSpec, condition_channels

FILE = Path(__file__).with_name("published.yaml")


class Published(Config):
    """A public checkpoint or add-on, one entry of ``published.yaml``."""

    hub: str = Field(description="owner/name, or owner/name:file")
    does: str = Field(description="what it does, in a few words")
    licence: str = Field(
        description="as its page says; not given: the page says none; not found: it was not seen"
    )
    base: str = Field("", description="the preset whose network it is, or that it is for")
    kind: Kind | Literal[""] = Field("", description="what that makes a video from; default: as the preset")
    frames: int | None = Field(None, ge=1, description="frames it was made for; default: as the preset")
    alpha: Literal["rank", "half"] | float | None = Field(
        None, description="alpha of an adapter whose file does not say it: a number, rank, or half the rank"
    )
    run: str = Field("", description="the arguments of a command that uses it; empty: none does")
    note: str = Field("", description="what else to know")
    least: int | None = Field(None, ge=0, description="bytes that the least way to run it needs on a GPU")

    @property
    def spec(self) -> ModelSpec | None:
        """The model whose memory a run of it needs; None for what is not known to be one."""
        return model_of(self.base, self.kind or None, self.frames) if self.base else None

    def alpha_of(self, rank: int) -> float | None:
        """The alpha of matrices of a rank; None where the file has to say it."""
        if isinstance(self.alpha, str):
            return float(rank) if self.alpha == "rank" else rank / 2
        return self.alpha


@cache
def published() -> dict[str, tuple[Published, ...]]:
    """All entries, by section. Raises ConfigError for a file that is wrong."""
    values = read_yaml(FILE)
    return {
        section: tuple(
            Published.parse(each, f"{FILE.name}: {section} {number}") for number, each in enumerate(entries)
        )
        for section, entries in values.items()
    }


def published_as(repository: str, file: str = "") -> Published | None:
    """The entry of a file of a hub repository, or of the repository; None where there is none."""
    entries = {entry.hub: entry for section in published().values() for entry in section}
    return entries.get(f"{repository}:{file}") or entries.get(repository)


def published_file(file: Path) -> Published | None:
    """The entry of a file that was downloaded from the hub; None for any other."""
    origin = origin_of(file)
    return published_as(origin["repository"], file.name) if origin else None


def model_of(preset: str, kind: Kind | None = None, frames: int | None = None) -> ModelSpec:
    """The spec of a preset's network for another kind of model, as its publishers made it; no file is read.

    Raises ConfigError for a preset that does not exist.
    """
    base = get_preset(preset)
    if kind in (None, base.kind) and frames in (None, base.frames):
        return base
    kind = kind or base.kind
    channels = base.latent_channels + condition_channels(kind, base.latent_channels)
    configs = base.transformer.changed(in_channels=channels), base.vae, base.schedule
    facts: dict[str, Any] = dict(zip(("transformer", "vae", "schedule"), configs, strict=True))
    if kind in OF_FUN:
        facts = fun_settings(kind, True, *configs)
    facts |= dict(frames=frames) if frames else {}
    return ModelSpec.of_configs(
        **facts,
        kind=kind,
        name=preset,
        dtype=base.dtype,
        text_settings=base.text_settings,
        licence=base.licence,
    )
