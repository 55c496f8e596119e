"""Task: what one step of training is, for any loop.

A task knows its data, its losses and how its result is stored; it knows no optimiser, no checkpoint, no progress bar.
Everything a step draws comes from (seed, step), so a task has no random state to save: a resumed run continues
exactly where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class Task(Protocol):
    """One kind of training."""

    module: nn.Module
    """What is trained: the optimiser moves its parameters that require gradients."""

    critic: nn.Module | None
    """A network that learns against ``module`` in the same steps, with an optimiser of its own.

    It is saved and resumed, but neither averaged nor exported. ``losses`` must keep the two apart: what is
    minimised for one must give the other no gradient.
    """

    def losses(self, step: int) -> dict[str, Tensor]:
        """Scalars of one step; ``loss`` is the one to minimise, the others are for the log.

        A task with ``parts`` is called so many times for one step of the optimiser, with the running number of the
        call; the step minimises the mean of its calls.
        """

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Held-out numbers of ``module`` (the trained one or its average), on fixed data and noise."""

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write ``module`` into ``folder`` in the layout the rest of the package reads."""


@runtime_checkable
class Describes(Protocol):
    """A task that tells about itself before it runs and after."""

    def describe(self) -> str:
        """What one step reads, for the line a run begins with; ends with ", " or is empty."""

    def lineage(self) -> dict[str, Any]:
        """What the result was made from: name -> digest or path."""


def parts_of(task: Task) -> int:
    """How many calls of ``losses`` make one step."""
    return int(getattr(task, "parts", 1))
