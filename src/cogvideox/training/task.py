"""Task: what one step of training is, for any loop.

A task knows its data, its losses and how its result is stored; it knows no optimiser, no checkpoint, no progress bar.
Everything a step draws comes from (seed, step), so a task has no random state to save: a resumed run continues
exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from cogvideox.video import Video


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


@runtime_checkable
class CompletesItself(Protocol):
    """The settings of a task that leave something to the model it starts from."""

    def completed(self, fetch: bool = False) -> Any:
        """The same settings with all of it filled in; ``fetch``: a model that is not here is downloaded."""

    def build(self, seed: int, steps: int | None = None) -> Any:
        """The task; ``steps`` of the whole run say how much of the data it will see."""


@runtime_checkable
class Spreads(Protocol):
    """A task whose network several processes can hold in parts."""

    def spread(self, mesh: DeviceMesh) -> None:
        """Let the ranks of ``mesh`` (data, shard, context) share ``module``; before optimisers are made."""

    def gathered(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network with these whole weights, in one piece again, for ``export``."""


@runtime_checkable
class MeasuresInPieces(Protocol):
    """A task whose held-out figures are made of pieces that different processes may work on."""

    pieces: int
    """How many there are."""

    figures: int
    """How many numbers a piece gives."""

    def measure_piece(self, module: nn.Module, piece: int) -> Sequence[float]:
        """What one piece gives."""

    def measured(self, found: Sequence[Sequence[float]]) -> dict[str, float]:
        """The figures of ``measure`` from all pieces in order."""


@runtime_checkable
class ShowsSamples(Protocol):
    """A task whose network makes videos that one can look at while it trains."""

    shown: int
    """How many."""

    def show(self, module: nn.Module, number: int) -> Video:
        """Video ``number``, from a fixed prompt and fixed noise."""


@runtime_checkable
class CountsWork(Protocol):
    """A task that knows what its steps cost."""

    def flops(self, step: int) -> float:
        """FLOPs of all calls of a step, forwards and backwards; what is computed again does not count."""

    def activations(self) -> float:
        """Bytes that the largest call of the first step keeps for the way back, about, in float32."""


def parts_of(task: Task) -> int:
    """How many calls of ``losses`` make one step."""
    return int(getattr(task, "parts", 1))
