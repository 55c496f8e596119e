"""The three ways to distil, as settings, and what a step of each costs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.spec import ModelSpec

LEAST_TIME = 20
"""The score of a student's videos is compared at this time of 1000 and above: below it is all detail."""


class FoldGuidance(Config):
    """The student's one answer is the teacher's guided one (Meng et al. 2022, arXiv 2210.03142, at one scale)."""

    kind: Literal["guidance"] = Field("guidance", description="one network pass a step instead of two")
    guidance: float = Field(6.0, gt=0, description="the scale that is folded in")


class Progressive(Config):
    """Each step of the student lands where two of the teacher's do."""

    kind: Literal["progressive"] = Field("progressive", description="half of the teacher's steps")
    steps: int = Field(gt=0, le=500, description="steps of the student; the teacher makes twice as many")
    guidance: float | None = Field(
        None, gt=0, description="scale of the teacher's guidance; null: it is folded in already"
    )


class TrajectoryMatching(Config):
    """Trajectory distribution matching: a student of few steps, taught by prompts alone, and a fake score beside it."""

    kind: Literal["tdm"] = Field("tdm", description="match the teacher's distribution along the trajectory")
    times: tuple[int, ...] = Field(
        (999, 856, 665, 399), min_length=1, description="the student's times, falling"
    )
    guidance: float = Field(3.5, gt=0, description="scale of the teacher's guidance")
    eta: float = Field(0.9, ge=0, le=1, description="share of its noise that a step keeps; the rest is new")
    keep: float = Field(0.5, ge=0, description="weight that keeps the fake score near the teacher")
    top: int = Field(980, gt=0, le=1000, description="scores are compared below this time")

    @model_validator(mode="after")
    def _times_fall(self) -> Self:
        if list(self.times) != sorted(set(self.times), reverse=True):
            raise ConfigError(f"times {self.times}: a step goes from noise to video; let the times fall")
        lowest = max(LEAST_TIME, *self.times[1:], 0)
        if self.top <= lowest:
            raise ConfigError(
                f"top {self.top}: scores are compared above the end of each step and above {LEAST_TIME}; set more than "
                f"{lowest}"
            )
        return self


Method = Annotated[FoldGuidance | Progressive | TrajectoryMatching, Field(discriminator="kind")]


def check_teacher(method: Method, teacher: ModelSpec, name: str) -> None:
    """Raise ConfigError for a method that asks ``teacher``, called ``name``, for what it was not made for."""
    own, asked = teacher.guidance, method.guidance
    if own == 1 and asked not in (None, 1):
        unset = "null" if isinstance(method, Progressive) else "1"
        raise ConfigError(
            f"task.method.guidance {asked:g}: {name} is made for guidance 1, there is none to take in; set "
            f"task.method.guidance={unset}, or start from the teacher of {name}"
        )
    if asked is None and own != 1:
        raise ConfigError(
            f"task.method.guidance null: {name} is made for guidance {own:g}, and its student would learn what it does "
            f"without; set task.method.guidance={own:g}, or 1 to distil it so"
        )
    if not teacher.times:
        return
    count = len(teacher.times)
    if isinstance(method, TrajectoryMatching):
        raise ConfigError(
            f"task.start {name}: tdm asks its teacher at every time, and this one knows {count}; start from its teacher"
        )
    wanted = 2 * method.steps if isinstance(method, Progressive) else count
    if wanted != count:
        other = f"set task.method.steps={count // 2}" if count % 2 == 0 else "start from its teacher"
        raise ConfigError(
            f"task.method.steps {wanted // 2}: asks the teacher for {wanted} steps, and {name} is made for {count}; "
            f"{other}"
        )


def passes(method: Method, frozen: bool) -> float:
    """Forward passes of the transformer that one clip of a step costs; a backward one counts two, or one where base
    weights are ``frozen`` under an adapter."""
    trained = 2.0 if frozen else 3.0
    guided = 1.0 if method.guidance in (None, 1) else 2.0
    if isinstance(method, FoldGuidance):
        return guided + trained
    if isinstance(method, Progressive):
        return 2 * guided + trained
    rollout = len(method.times) - 1
    return (
        rollout + 1 + 1 + trained + trained + guided + 1
    )  # fake: student, teacher, itself; student: itself, both
