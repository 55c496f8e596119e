"""A whole run: what a task is, and how long and with what it trains; one complete config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from cogvideox.errors import ConfigError
from cogvideox.training.loop import TrainConfig
from cogvideox.training.tasks.captioner import CaptionerTraining
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.label_classifier import ClassifierTraining
from cogvideox.training.tasks.lpips import PerceptualTraining
from cogvideox.training.tasks.summariser import SummariserTraining
from cogvideox.training.tasks.text_encoder import TextTraining
from cogvideox.training.tasks.vae import VAETraining
from cogvideox.training.unused import check_used_names


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
