"""A whole run: what a task is, and how long and with what it trains; one complete config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from cogvideox.errors import ConfigError
from cogvideox.training.captioner import CaptionerTraining
from cogvideox.training.classifier import ClassifierTraining
from cogvideox.training.diffusion import DiffusionTraining
from cogvideox.training.loop import TrainConfig
from cogvideox.training.perceptual import PerceptualTraining
from cogvideox.training.summariser import SummariserTraining
from cogvideox.training.text import TextTraining
from cogvideox.training.unused import check_used_names
from cogvideox.training.vae import VAETraining


class Run(TrainConfig):
    """A whole run of one of the tasks this package knows."""

    task: Annotated[
        VAETraining
        | TextTraining
        | DiffusionTraining
        | CaptionerTraining
        | SummariserTraining
        | PerceptualTraining
        | ClassifierTraining,
        Field(discriminator="kind"),
    ]

    def override(self, settings: Sequence[str]) -> Self:
        """As every config's. Raises ConfigError for a setting that would change nothing."""
        changed = super().override(settings)
        if isinstance(changed.task, DiffusionTraining):
            check_used_names(changed.task, settings)
        return changed

    @model_validator(mode="after")
    def _the_critic_begins(self) -> Self:
        gan = self.task.gan if isinstance(self.task, VAETraining) else None
        if gan is not None and gan.start >= self.steps:
            raise ConfigError(
                f"task.gan.start {gan.start}: the run ends at step {self.steps}, before the GAN loss begins; "
                "lower task.gan.start, or set task.gan=null"
            )
        return self
