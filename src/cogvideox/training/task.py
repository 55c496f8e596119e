"""Base classes of training tasks (the objective: data, losses, export) and of their settings.

A task knows its data, its losses and how its result is stored; it knows no optimiser, no checkpoint, no progress bar.
Everything a step draws comes from (seed, micro-step), so a task has no random state to save: a resumed run continues
exactly where it stopped.

A new task defines ``build`` in a ``TaskConfig``, and ``module``, ``losses`` and ``export`` in a ``Task``.
Everything else has a default that does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.video import Video


class MayChange:
    """Marks a setting that may change when a run resumes: ``log_every: Annotated[int, MayChange]``.

    Such settings decide how and where work is done or reported and, rounding aside, not the result. A resume compares
    all others with those of the start of the run, and refuses a difference.
    """


class TaskConfig(Config):
    """Base class of the settings of a task; ``build`` makes the task."""

    renamed_settings: ClassVar[dict[str, str]] = {"parts": "accumulation"}

    kind: str = Field("task", description="which task")
    accumulation: int = Field(
        1,
        gt=0,
        description="gradient accumulation: micro-steps (forward and backward of one batch) of an optimiser step, of "
        "all processes together",
    )

    def build(self, seed: int, steps: int | None = None) -> Task:
        """The task, with initial weights made from ``seed``; ``steps``: how far the run goes, so that no more data than
        that is prepared (None: all)."""
        raise ConfigError(f"task.kind {self.kind}: there is no such task")

    def completed(self, *, fetch: bool = False) -> Self:
        """The same settings with those filled in that the model to start from decides; ``fetch``: download that model
        when it is not on this machine."""
        return self

    def check(self, *, out: Path, precision: str) -> None:
        """Raise ConfigError for settings that do not go with the run's folder or its precision."""

    def without_effect(self) -> dict[str, str]:
        """Settings without effect, given the values of the others: dotted name -> why, and what to set instead."""
        return {}

    def refuse_without_effect(self, names: Iterable[str]) -> None:
        """Raise ConfigError when one of the settings ``names`` has no effect (``without_effect``)."""
        reasons = self.without_effect()
        for name in names:
            for key, reason in reasons.items():
                if name == key or name.startswith(f"{key}."):
                    raise ConfigError(f"task.{name}: {reason}")

    @property
    def data_folder(self) -> str | None:
        """The folder of clips that the task reads; None: it reads none."""
        return None

    @property
    def has_critic(self) -> bool:
        """Whether the task trains a second network beside its own (``Task.critic``)."""
        return False

    @property
    def compute_device(self) -> str:
        """The device that the network trains on."""
        return "cpu"


class Task(ABC):
    """Base class of a training objective: a network, its losses on a micro-step, how it is measured and exported."""

    config: TaskConfig
    module: nn.Module
    """The network to train: the optimiser updates its parameters that require gradients."""

    critic: nn.Module | None = None
    """A discriminator, trained in the same steps with an optimiser of its own; None: there is none.

    It is saved and resumed, but neither averaged nor exported. ``losses`` must keep the two apart: what is
    minimised for one must give the other no gradient.
    """

    measure_batches: int = 0
    """Number of held-out batches, shared by the processes; 0: ``measure`` does everything on the first process."""

    measure_width: int = 0
    """Number of values that ``measure_batch`` returns."""

    sample_videos: int = 0
    """How many videos ``sample_video`` can make while the network trains; 0: it makes none."""

    @abstractmethod
    def losses(self, micro_step: int) -> dict[str, Tensor]:
        """Scalars of one forward pass; ``loss`` is the one to minimise, the others are for the log.

        With gradient accumulation the loop asks for several micro-steps before the optimiser moves, numbered through
        the whole run; the step minimises their mean.
        """

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Held-out figures of ``module`` (the trained one or its average), on fixed data and noise."""
        return self.combine([self.measure_batch(module, index) for index in range(self.measure_batches)])

    def measure_batch(self, module: nn.Module, index: int) -> Sequence[float]:
        """Measured values of held-out batch ``index``, ``measure_width`` of them, for ``combine``."""
        return ()

    def combine(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """Held-out figures by name, from the values of all batches in order; {}: there are none."""
        return {}

    @abstractmethod
    def export(self, module: nn.Module, folder: Path) -> None:
        """Write ``module`` into ``folder`` in the layout the rest of the package reads."""

    def describe(self) -> str:
        """What one step reads, in words, for the first line that a run prints; ends with ", " or is empty."""
        return ""

    def lineage(self) -> dict[str, Any]:
        """What the result was made from: name -> digest or path."""
        return {}

    def sample_names(self, micro_step: int) -> Sequence[str]:
        """The names of the samples that one micro-step learns from, in order, for the ledger."""
        return ()

    def data_facts(self) -> dict[str, Any] | None:
        """Facts about the data and the frozen networks, as plain values; every state stores them, and a resume with
        other ones is refused. None: nothing to compare."""
        return None

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard ``module`` over the ranks of ``mesh`` (data, shard, context); called before optimisers are made. Raises
        ConfigError for a network that cannot be sharded."""
        raise ConfigError(
            f"task {self.config.kind}, mesh shard {mesh['shard'].size()} x context {mesh['context'].size()}: its "
            "network cannot be sharded; use mesh.data alone"
        )

    def unsharded(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network on one process, with these gathered weights, for ``export``."""
        return self.module

    def sample_video(self, module: nn.Module, index: int) -> Video:
        """Sample video ``index``, from a fixed prompt and fixed noise, as ``module`` makes it now. Raises ConfigError
        for a task without any."""
        raise ConfigError(f"task {self.config.kind}: makes no videos")

    def flops(self, step: int) -> float:
        """FLOPs of all micro-steps of a step, forward and backward, without recomputation; 0: not counted."""
        return 0.0

    def activation_bytes(self) -> float:
        """Bytes, about, that the largest micro-step of the first step keeps for backward in float32; 0: not counted."""
        return 0.0
