"""One training run as one value: its task, its optimiser, and what is saved, measured and reported how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.parallel.data_parallel import Reduce
from cogvideox.parallel.mesh import MeshConfig
from cogvideox.training.optim import OptimConfig
from cogvideox.training.step_guard import GuardConfig
from cogvideox.training.task import MayChange, TaskConfig
from cogvideox.training.tasks.captioner import CaptionerTraining
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.features import FeaturesTraining
from cogvideox.training.tasks.label_classifier import ClassifierTraining
from cogvideox.training.tasks.lpips import PerceptualTraining
from cogvideox.training.tasks.summariser import SummariserTraining
from cogvideox.training.tasks.text_encoder import TextTraining
from cogvideox.training.tasks.vae import VAETraining


class TrainConfig(Config):
    """Settings of a run of any task."""

    renamed_settings: ClassVar[dict[str, str]] = {"adding": "reduce"}

    name: str = Field(description="the recipe this run came from")
    task: SerializeAsAny[TaskConfig] = Field(description="what one step is")
    out: Annotated[str, MayChange] = Field(description="folder of the run: config, metrics, states, result")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    seed: int = Field(0, ge=0, description="decides data order, noise and initial weights")
    optim: OptimConfig = Field(OptimConfig(), description="how the task's network moves")
    critic: OptimConfig | None = Field(None, description="how a task's critic moves; default: as optim")
    guard: GuardConfig = Field(GuardConfig(), description="which steps are skipped, and when the run stops")
    reduce: Reduce = Field("fast", description="gradients of ranks: fast, or exactly as one process")
    mesh: Annotated[MeshConfig, MayChange] = Field(
        MeshConfig(),
        description="how processes share the work: copies, shards of the weights, shards of a clip",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="mixed precision: autocast to bf16; weights stay fp32"
    )
    save_every: Annotated[int, MayChange] = Field(200, gt=0, description="steps between training states")
    background: Annotated[bool, MayChange] = Field(False, description="write states in a thread, from a copy")
    log_every: Annotated[int, MayChange] = Field(20, gt=0, description="steps between lines of metrics.jsonl")
    measure_every: Annotated[int, MayChange] = Field(500, gt=0, description="steps between held-out figures")
    sample_every: Annotated[int | None, MayChange] = Field(
        None, gt=0, description="steps between sample videos in <out>/samples; null: none"
    )
    peak_tflops: Annotated[float | None, MayChange] = Field(
        None,
        gt=0,
        description="TFLOPs a second that a device can do at most, for MFU; null: known cards, else not reported",
    )
    tensorboard: Annotated[bool, MayChange] = Field(False, description="write <out>/tensorboard too")
    wandb: Annotated[str | None, MayChange] = Field(None, description="Weights & Biases project to report to")


class Run(TrainConfig):
    """Settings of a run of one of the tasks of this package."""

    task: Annotated[
        VAETraining
        | TextTraining
        | DiffusionTraining
        | DistilTraining
        | CaptionerTraining
        | SummariserTraining
        | PerceptualTraining
        | ClassifierTraining
        | FeaturesTraining,
        Field(discriminator="kind"),
    ]

    def check_change(self, before: Self, names: Sequence[str]) -> None:
        """Raise ConfigError for a setting that changes nothing."""
        refuse_without_effect(self.task, names, "task.")
        if not any(name.split(".")[0] == "critic" for name in names):
            return
        if not self.task.has_critic:
            raise ConfigError(f"critic: this run of {self.task.kind} trains none; leave it out")
        averaged = self.critic is not None and self.critic.ema not in (0.0, OptimConfig().ema)
        if "critic.ema" in names or averaged:
            raise ConfigError("critic.ema: a critic is not averaged; leave it out")

    @model_validator(mode="after")
    def _check_gan_start(self) -> Self:
        gan = self.task.gan if isinstance(self.task, VAETraining) else None
        if gan is not None and gan.start >= self.steps:
            raise ConfigError(
                f"task.gan.start {gan.start}: the run ends at step {self.steps}, before the GAN loss begins; "
                "lower task.gan.start, or set task.gan=null"
            )
        return self


def refuse_without_effect(task: TaskConfig, names: Sequence[str], prefix: str) -> None:
    """Raise ConfigError for a dotted setting of the task (under ``prefix``) that changes nothing."""
    task.refuse_without_effect(name.removeprefix(prefix) for name in names if name.startswith(prefix))
