"""What decides an evaluation, besides whose videos it is of and where its scores go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError, suggest

SUITES = ("world", "two", "finish", "paper", "vae", "inpaint", "keyframes", "control")
STYLED = ("world", "finish", "vae")
"""Suites that ask for either style of the tiny world."""
GENERATED = ("lora", "steps", "guidance", "sampler")
"""Options that say how a video is generated."""
ASKED = ("prompts", "prompt_set", "seeds", "dtype", "device")
"""Options that say which videos a model is asked for, and how it runs."""
OPTION_GROUPS = {
    "Suite": "suite prompts style prompt_set seeds against",
    "Videos of a model": "lora steps guidance sampler strength dtype device",
    "Compared with": "references colour fvd_fps",
    "Networks and judges": "i3d clip lpips observations vbench_results devil judge_url judge_model judge_replay",
}
"""The headings of ``cogvideox evaluate --help``, and the options under each."""


class EvaluateOptions(Config):
    """How videos are scored, and how those of a model are made."""

    suite: str | None = Field(
        None,
        description="world, two (things), finish, paper, vae, inpaint, keyframes or control; default: world for a "
        "model, for videos by their prompts",
    )
    prompts: int | None = Field(None, ge=1, description="how many of the suite's prompts; default: all")
    style: Literal["plain", "rich"] = Field(
        "plain", description="suites world, finish and vae: which style of the tiny world asks and judges"
    )
    prompt_set: str = Field("vbench", description="paper: vbench, vbench-long, gallery, compositional")
    seeds: int = Field(1, ge=1, description="videos per prompt")
    lora: tuple[str, ...] = Field(
        (),
        description="adapter: a file, a folder or owner/name:file, with its strength: NAME:0.8; repeatable; settings "
        "beside it count unless others are given",
    )
    steps: int | None = Field(None, description="denoising steps")
    guidance: float | None = Field(None, description="how strongly to follow the prompt")
    sampler: str | None = Field(None, description="ddim, dpm or dpm-ode")
    strength: float | None = Field(
        None, gt=0, le=1, description="suite finish: how far the true clip is noised; default: 0.72"
    )
    references: str | None = Field(None, description="folder of originals or of real videos")
    i3d: str | None = Field(None, description="I3D TorchScript file, for FVD")
    fvd_fps: float | None = Field(None, ge=0.01, description="FVD: bring videos and references to this rate")
    colour: Literal["guess", "bt601", "bt709"] = Field(
        "guess", description="how untagged videos are read: guess (by their size), bt601 or bt709"
    )
    clip: str | None = Field(None, description="folder of CLIP ViT-B/32")
    lpips: str | None = Field(None, description="folder of vgg16.pth and LPIPS's vgg.pth")
    observations: str | None = Field(None, description="recorded answers of VBench's networks (JSON lines)")
    vbench_results: str | None = Field(
        None, description="what VBench's own evaluation wrote (*_eval_results.json), for its totals"
    )
    devil: str | None = Field(None, description="DEVIL's dynamics and qualities per video (JSON)")
    judge_url: str | None = Field(None, description="OpenAI-compatible server or model folder, for MTScore")
    judge_model: str = Field("gpt-4o-2024-05-13", description="the judge's name on that server")
    judge_replay: str | None = Field(None, description="recorded answers of a judge, instead")
    against: str | None = Field(None, description="folder of another evaluation, to compare with")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16; default: as stored")
    device: str | None = Field(None, description="cpu, cuda, ...; default: cuda, else mps, else cpu")

    @model_validator(mode="after")
    def _suite_is_known(self) -> Self:
        if self.suite is not None and self.suite not in SUITES:
            raise ConfigError(
                f"suite {self.suite!r}: unknown{suggest(self.suite, SUITES)}; there are: {', '.join(SUITES)}"
            )
        if self.style != "plain" and self.suite not in (None, *STYLED):
            raise ConfigError(
                f"style {self.style}, suite {self.suite}: only {', '.join(STYLED)} have prompts of that style; leave "
                "one out"
            )
        if self.strength is not None and self.suite != "finish":
            raise ConfigError(
                f"strength {self.strength:g}: the suite finish alone noises true clips; leave it out"
            )
        if self.suite == "vae":
            self.check_unused(GENERATED, "suite vae: codes clips, it generates none")
        return self

    def check_unused(self, names: Iterable[str], why: str) -> None:
        """Raise ConfigError, which begins with ``why``, where one of the options ``names`` was given."""
        fields = type(self).model_fields
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given:
            raise ConfigError(
                f"{why}; leave {', '.join('--' + name.replace('_', '-') for name in given)} out"
            )

    @property
    def generation(self) -> dict[str, Any]:
        """The options of generation that were given, by their names in ``GenerateOptions``."""
        given = {"steps": self.steps, "guidance": self.guidance, "sampler": self.sampler}
        if self.suite == "finish":
            given["strength"] = 0.72 if self.strength is None else self.strength
        return {name: value for name, value in given.items() if value is not None}
