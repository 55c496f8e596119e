"""Classifier-free guidance: how strongly each step leans towards the prompt.

Three answers to the same question. ``Constant`` is the paper's. ``Wave`` is what the released code does when its
dynamic guidance is on: the formula expects the number of the step but is given the raw time (0 to 999), so the scale
swings up and down until the last few steps. ``Cosine`` is the smooth ramp that formula was meant to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from cogvideox.config import Config
from cogvideox.diffusion.schedule import SamplerStep

Guide = Callable[[SamplerStep], float]

RELEASED_GUIDANCE = 6.0
"""The scale the released models are used with."""


class Constant(Config):
    """The same scale at every step."""

    kind: Literal["constant"] = Field("constant", description="the same scale at every step")
    scale: float = Field(
        RELEASED_GUIDANCE, ge=0, description="1 follows the prompt as trained, more follows it harder"
    )

    def build(self) -> Guide:
        """The scale as a function of the step."""
        return lambda step: self.scale


class Wave(Config):
    """The released dynamic guidance: 1 + scale (1 - cos(pi ((count - t) / count)^power)) / 2, t up to 999."""

    kind: Literal["wave"] = Field("wave", description="the released dynamic guidance")
    scale: float = Field(RELEASED_GUIDANCE, ge=0, description="the scale swings between 1 and 1 + this")
    power: float = Field(5.0, gt=0, description="exponent inside the cosine")

    def build(self) -> Guide:
        """The scale as a function of the step."""
        return lambda step: _ramp(self.scale, (step.count - step.t) / step.count, self.power)


class Cosine(Config):
    """1 + scale (1 - cos(pi progress^power)) / 2, with progress from 0 at the first step to 1 at the last."""

    kind: Literal["cosine"] = Field("cosine", description="a smooth ramp from 1 to 1 + scale")
    scale: float = Field(RELEASED_GUIDANCE, ge=0, description="the last step uses 1 + this")
    power: float = Field(5.0, gt=0, description="how late the ramp rises")

    def build(self) -> Guide:
        """The scale as a function of the step."""
        return lambda step: _ramp(self.scale, step.index / max(step.count - 1, 1), self.power)


Guidance = Annotated[Constant | Wave | Cosine, Field(discriminator="kind")]

GUIDANCE: dict[str, type[Constant] | type[Wave] | type[Cosine]] = {
    "constant": Constant,
    "wave": Wave,
    "cosine": Cosine,
}


def is_guided(guidance: Constant | Wave | Cosine) -> bool:
    """Whether the negative branch is evaluated: not with a scale of at most 1, as in the released code."""
    return guidance.scale > 1.0


def _ramp(scale: float, progress: float, power: float) -> float:
    # Python's ** keeps the sign of a negative progress for an odd power, and turns complex for a fraction
    raised = progress**power if power == int(power) else math.copysign(abs(progress) ** power, progress)
    return 1.0 + scale * (1.0 - math.cos(math.pi * raised)) / 2.0
