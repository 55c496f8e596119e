"""A whole run: what a task is, and how long and with what it trains; one complete config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cogvideox.training.captioner import CaptionerTraining
from cogvideox.training.classifier import ClassifierTraining
from cogvideox.training.diffusion import DiffusionTraining
from cogvideox.training.loop import TrainConfig
from cogvideox.training.perceptual import PerceptualTraining
from cogvideox.training.summariser import SummariserTraining
from cogvideox.training.text import TextTraining
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
