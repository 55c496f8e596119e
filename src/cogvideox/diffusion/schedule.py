"""The zero-terminal-SNR schedule: how much signal is left at each time, and which times a sampler visits.

    x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps
    v   = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0

The order is fixed by the released weights: scaled-linear betas, cumulative product, SNR shift, then the rescale that
makes the last time pure noise (Lin et al. 2023, Algorithm 1; Kingma & Gao 2023 for v-prediction).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from cogvideox.config import Config
from cogvideox.errors import ConfigError

Spacing = Literal["trailing", "linspace", "leading"]
Previous = Literal["released", "corrected"]


class ScheduleConfig(Config):
    """The values of ``scheduler_config.json``, under the same names; the defaults are 5B's."""

    num_train_timesteps: int = Field(
        1000, ge=2, le=100_000, description="number of noise levels the model was trained on"
    )
    beta_start: float = Field(0.00085, gt=0, lt=1, description="noise added by the first level")
    beta_end: float = Field(0.012, gt=0, lt=1, description="noise added by the last level")
    beta_schedule: Literal["scaled_linear", "linear"] = Field(
        "scaled_linear", description="beta between its ends: linear in its square root, or linear"
    )
    trained_betas: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, description="explicit betas, instead of the three above"
    )
    snr_shift_scale: float = Field(
        1.0, gt=0, le=1e6, description="divide the signal-to-noise ratio by this: 3 for 2B, else 1"
    )
    rescale_betas_zero_snr: bool = Field(True, description="make the last level pure noise")
    timestep_spacing: Spacing = Field("trailing", description="which levels a sampler visits")
    steps_offset: int = Field(0, ge=0, le=100_000, description="added to every time of the leading spacing")
    set_alpha_to_one: bool = Field(True, description="the level after the last step is a clean video")
    prediction_type: Literal["v_prediction", "epsilon", "sample"] = Field(
        "v_prediction", description="what the network predicts"
    )
    clip_sample: bool = Field(False, description="kept for the file; latents are never clipped")
    clip_sample_range: float = Field(1.0, ge=0, le=1e6, description="kept for the file")
    sample_max_value: float = Field(1.0, ge=0, le=1e6, description="kept for the file")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ValueError(
                "prediction_type 'epsilon' with rescale_betas_zero_snr true: pure noise says nothing "
                "about the video; use 'v_prediction', or rescale_betas_zero_snr false"
            )
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} values, num_train_timesteps is "
                f"{self.num_train_timesteps}; make them equal"
            )
        if self.clip_sample:
            warnings.warn("clip_sample true has no effect: video latents are not clipped", stacklevel=2)
        return self

    def check_times(self, times: Sequence[int]) -> None:
        """Raises ConfigError for times that the schedule has not, or that do not fall from step to step."""
        if outside := [t for t in times if not 0 <= t < self.num_train_timesteps]:
            raise ConfigError(
                f"times {outside[0]}: the schedule has the times 0 to {self.num_train_timesteps - 1}; choose of these"
            )
        check_falling(times)

    def build(self) -> Schedule:
        """The schedule these settings describe."""
        return Schedule(self)


def check_falling(times: Sequence[int]) -> None:
    """Raises ConfigError for times that do not fall from step to step."""
    for before, after in pairwise(times):
        if after >= before:
            raise ConfigError(f"times {before}, {after}: a step goes from noise to video; let the times fall")


@dataclass(frozen=True)
class SamplerStep:
    """One step of a sampler, in Python numbers, so that a step never waits for the device.

    ``alpha_bar``, ``next_alpha_bar`` and ``back_alpha_bar`` are the signal levels here, after this step, and at the
    step before (None at the first). ``final`` steps leave the times of the schedule: they do not extrapolate.
    """

    index: int
    count: int
    t: int
    alpha_bar: float
    next_alpha_bar: float
    back_alpha_bar: float | None
    final: bool


class Schedule:
    """``alpha_bar`` for every time, and what follows from it. Tables follow the device of the inputs."""

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        self.config = config or ScheduleConfig()
        self.alpha_bar: Float[Tensor, " T"] = _alpha_bar(self.config)  # float64
        self._levels: list[float] = self.alpha_bar.tolist()
        self._on_device: dict[torch.device, Tensor] = {self.alpha_bar.device: self.alpha_bar}

    @property
    def final_alpha_bar(self) -> float:
        """The signal level after the last step: 1, or that of time 0 when ``set_alpha_to_one`` is false."""
        return 1.0 if self.config.set_alpha_to_one else self._levels[0]

    def timesteps(self, steps: int) -> list[int]:
        """The times a sampler visits, from noise to video. Raises ConfigError unless 1 <= steps <= 1000.

        Trailing: ``round(1000 - i * 1000 / steps) - 1``; the only spacing that starts from pure noise for any count.
        """
        total = self.config.num_train_timesteps
        if not 1 <= steps <= total:
            raise ConfigError(f"steps {steps}: the schedule has {total} times; choose 1 to {total}")
        if self.config.timestep_spacing == "trailing":
            times = np.arange(total, 0, -total / steps)[:steps].round() - 1
        elif self.config.timestep_spacing == "linspace":
            times = np.linspace(0, total - 1, steps).round()[::-1]
        else:
            times = (np.arange(steps) * (total // steps))[::-1] + self.config.steps_offset
        return [min(int(t), total - 1) for t in times]

    def path(
        self,
        steps: int,
        previous: Previous = "released",
        strength: float = 1.0,
        times: Sequence[int] = (),
    ) -> list[SamplerStep]:
        """The steps of one run; ``strength`` below 1 keeps only the last part, to start from a noised video.

        ``previous`` says which level a step ends at. "released": time t - 1000 // steps, as the published samplers do,
        which is not the next visited time unless steps divides 1000. "corrected": the next visited time. ``times``
        lists the visited times instead, as models of few steps have their own: each step ends at the next one, and
        ``steps`` and ``previous`` are not read. Raises ConfigError for times that are not there or do not fall.
        """
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"strength {strength}: the share of steps to run; choose 0 to 1")
        if times:
            self.config.check_times(times)
            times, steps, previous = list(times), len(times), "corrected"
        else:
            times = self.timesteps(steps)
        stride = self.config.num_train_timesteps // steps
        ends = [t - stride for t in times] if previous == "released" else [*times[1:], -1]
        kept = list(zip(times, ends, strict=True))[steps - min(int(steps * strength), steps) :]
        return [
            SamplerStep(
                index=index,
                count=len(kept),
                t=t,
                alpha_bar=self._levels[t],
                next_alpha_bar=self._levels[end] if end >= 0 else self.final_alpha_bar,
                back_alpha_bar=self._levels[kept[index - 1][0]] if index else None,
                final=end < 0,
            )
            for index, (t, end) in enumerate(kept)
        ]

    def add_noise(
        self, x0: Float[Tensor, b * dims], noise: Float[Tensor, b * dims], t: Int[Tensor, " b"] | int
    ) -> Float[Tensor, b * dims]:
        """x_t, computed in float32 and returned in the dtype of ``x0``."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return (alpha * x0.float() + sigma * noise.float()).to(x0.dtype)

    def velocity(
        self, x0: Float[Tensor, b * dims], noise: Float[Tensor, b * dims], t: Int[Tensor, " b"] | int
    ) -> Float[Tensor, b * dims]:
        """v, the training target, in float32."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * noise.float() - sigma * x0.float()

    def clean(
        self, x: Float[Tensor, b * dims], v: Float[Tensor, b * dims], t: Int[Tensor, " b"] | int
    ) -> Float[Tensor, b * dims]:
        """x0 from x_t and v, in float32."""
        alpha, sigma = self.alpha_sigma(t, x)
        return alpha * x.float() - sigma * v.float()

    def noise(
        self, x: Float[Tensor, b * dims], v: Float[Tensor, b * dims], t: Int[Tensor, " b"] | int
    ) -> Float[Tensor, b * dims]:
        """eps from x_t and v, in float32."""
        alpha, sigma = self.alpha_sigma(t, x)
        return alpha * v.float() + sigma * x.float()

    def alpha_sigma(self, t: Int[Tensor, " b"] | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at ``t``, float32, shaped to multiply ``like`` [b, ...]."""
        if like.device not in self._on_device:
            self._on_device[like.device] = self.alpha_bar.to(like.device)
        level = self._on_device[like.device][t]
        if level.ndim:
            level = level.view(-1, *[1] * (like.ndim - 1))
        return level.sqrt().float(), (1 - level).sqrt().float()


def _alpha_bar(config: ScheduleConfig) -> Float[Tensor, " T"]:
    alpha_bar = torch.cumprod(1.0 - _betas(config), dim=0)
    shift = config.snr_shift_scale
    alpha_bar = alpha_bar / (shift + (1.0 - shift) * alpha_bar)  # SNR <- SNR / shift
    if not config.rescale_betas_zero_snr:
        return alpha_bar
    root = alpha_bar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))) ** 2


def _betas(config: ScheduleConfig) -> Float[Tensor, " T"]:
    count = config.num_train_timesteps
    if config.trained_betas is not None:
        return torch.tensor(config.trained_betas, dtype=torch.float64)
    if config.beta_schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, count, dtype=torch.float64)
    return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, count, dtype=torch.float64) ** 2
