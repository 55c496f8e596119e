"""Guidance: how strongly each step leans towards the prompt, and how the answers of the network become one.

The scale has three forms. ``Constant`` is the paper's. ``Wave`` is what the released code does when its dynamic
guidance is on: the formula expects the number of the step but is given the raw time (0 to 999), so the scale swings up
and down until the last few steps. ``Cosine`` is the smooth ramp that formula was meant to be.

``Guider`` is all of a run's guidance: a scale, the rule that puts the two answers together, the steps it is on, and
whether a third answer, of a network that leaves blocks out, is led away from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from cogvideox.config import Config
from cogvideox.diffusion import combine
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


def is_guided(guidance: Constant | Wave | Cosine | Guider) -> bool:
    """Whether the negative branch is evaluated: not with a scale of at most 1, as in the released code."""
    return (guidance.guidance if isinstance(guidance, Guider) else guidance).scale > 1.0


Branch = Literal["negative", "prompt", "skipped"]
"""What the network is asked at a step: the negative prompt, the prompt, the prompt with blocks left out."""

Combine = Callable[[Tensor, Tensor, float], Tensor]
"""The answers for the negative prompt and for the prompt, and the scale, to one prediction; called step by step."""


class ClassifierFree(Config):
    """The plain rule: negative + scale (prompt - negative)."""

    kind: Literal["cfg"] = Field("cfg", description="classifier-free guidance")

    def build(self) -> Combine:
        """The rule as a function of the two answers and the scale."""
        return combine.classifier_free


class ZeroStar(Config):
    """CFG-Zero* (arXiv 2503.18886): the negative answer is scaled to fit the other one; the first steps are zero."""

    kind: Literal["zero-star"] = Field(
        "zero-star", description="the negative answer scaled to fit (CFG-Zero*)"
    )
    zero_steps: int = Field(
        1, ge=0, description="first steps whose prediction is zero, without asking the network"
    )

    def build(self) -> Combine:
        """The rule as a function of the two answers and the scale."""
        return combine.zero_star


class Projected(Config):
    """Adaptive projected guidance (arXiv 2410.02416): the part of the difference along the prompt's answer is damped.

    That part makes colours harsh at high scales. ``eta`` 1 without ``norm`` and ``momentum`` is the plain rule.
    """

    kind: Literal["apg"] = Field("apg", description="the difference without its part along the answer (APG)")
    eta: float = Field(0.0, description="how much of the part along the prompt's answer is kept")
    norm: float = Field(0.0, ge=0, description="longest difference, as a norm over the whole video; 0: any")
    momentum: float = Field(-0.5, gt=-1, lt=1, description="how much of earlier differences is added")

    def build(self) -> Combine:
        """The rule as a function of the two answers and the scale; it remembers the differences of a run."""
        average: list[Tensor] = []

        def rule(negative: Tensor, prompt: Tensor, scale: float) -> Tensor:
            difference = prompt - negative
            if self.momentum:
                if average:
                    difference = difference.add_(average.pop(), alpha=self.momentum)
                average.append(difference)
            return combine.projected(negative, prompt, difference, scale, self.eta, self.norm)

        return rule


Rule = Annotated[ClassifierFree | ZeroStar | Projected, Field(discriminator="kind")]


class Guider(Config):
    """All of a run's guidance: the scale, the rule, the steps it is on, and the branch with blocks left out.

    Guidance is on in the steps from int(start count) to before int(stop count); the other steps ask the network for the
    prompt alone. With ``stg`` (spatio-temporal guidance, arXiv 2411.18664) the prediction is led away from that of a
    network that leaves blocks out, too: + stg (prompt - skipped). ``rescale`` (arXiv 2305.08891, section 3.4) brings
    the spread of the result back towards that of the prompt's answer. As in diffusers, all of it is computed on what
    the network predicts (v), in float32.
    """

    guidance: Guidance = Field(default_factory=Constant, description="the scale at each step")
    rule: Rule = Field(default_factory=ClassifierFree, description="how the two answers become one")
    rescale: float = Field(
        0.0, ge=0, le=1, description="how far the spread is brought back to the prompt's answer"
    )
    start: float = Field(0.0, ge=0, le=1, description="the share of steps before guidance begins")
    stop: float = Field(1.0, ge=0, le=1, description="the share of steps after which guidance ends")
    stg: float = Field(
        0.0, ge=0, description="how strongly the branch with blocks left out is avoided; 0: not asked"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start:g} and stop {self.stop:g}: no step lies between; raise stop")
        return self

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What the network is asked where guidance is on, in the order of the batch."""
        negative: tuple[Branch, ...] = ("negative",) if is_guided(self) else ()
        skipped: tuple[Branch, ...] = ("skipped",) if self.stg > 0 else ()
        return (*negative, "prompt", *skipped)

    @property
    def zero_steps(self) -> int:
        """First steps whose prediction is zero."""
        return self.rule.zero_steps if isinstance(self.rule, ZeroStar) and is_guided(self) else 0

    def is_on(self, index: int, count: int) -> bool:
        """Whether step ``index`` of ``count`` is guided."""
        return int(self.start * count) <= index < int(self.stop * count)

    def branches_at(self, index: int, count: int) -> tuple[Branch, ...]:
        """What the network is asked at a step: nothing where the prediction is zero, the prompt alone outside."""
        if index < self.zero_steps:
            return ()
        return self.branches if self.is_on(index, count) else ("prompt",)

    def evaluations(self, count: int) -> int:
        """How many answers all ``count`` steps ask for together."""
        return sum(len(self.branches_at(index, count)) for index in range(count))

    def always(self) -> Self:
        """The same guidance at every step: what a step costs at most."""
        rule = ClassifierFree() if isinstance(self.rule, ZeroStar) else self.rule
        return self.changed(start=0.0, stop=1.0, rule=rule)

    def scale_at(self, step: SamplerStep) -> float:
        """The scale of a step; 1, the prompt's answer alone, where guidance is off."""
        return self.guidance.build()(step) if "negative" in self.branches_at(step.index, step.count) else 1.0

    def build(self) -> Callable[[SamplerStep, dict[Branch, Tensor]], Tensor]:
        """The answers of a guided step to one prediction; call it for the steps of one run in their order."""
        scale, rule = self.guidance.build(), self.rule.build()

        def prediction(step: SamplerStep, answers: dict[Branch, Tensor]) -> Tensor:
            prompt = answers["prompt"]
            result = rule(answers["negative"], prompt, scale(step)) if "negative" in answers else prompt
            if "skipped" in answers:
                result = result + self.stg * (prompt - answers["skipped"])
            return combine.rescaled(result, prompt, self.rescale) if self.rescale else result

        return prediction


def _ramp(scale: float, progress: float, power: float) -> float:
    # Python's ** keeps the sign of a negative progress for an odd power, and turns complex for a fraction
    raised = progress**power if power == int(power) else math.copysign(abs(progress) ** power, progress)
    return 1.0 + scale * (1.0 - math.cos(math.pi * raised)) / 2.0
