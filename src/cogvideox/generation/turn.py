"""One run of a model at a time: its turn, its clock, and what it tells of where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.brief import Brief
from cogvideox.model import CogVideoX


@dataclass(frozen=True, repr=False)
class Progress(Brief):
    """Where a run is. ``stage`` is text, encode, denoise or decode; ``estimate`` the clean latents so far.

    A stage begins with ``done`` 0, before its first step.
    """

    stage: str
    done: int
    total: int
    seconds: float
    estimate: Float[Tensor, "b c t h w"] | None = None


OnStep = Callable[[Progress], None]


class RunClock:
    """Tells progress on, and how long each stage took. ``before``: seconds that the run has taken already."""

    def __init__(self, on_step: OnStep | None, before: float = 0.0) -> None:
        self.on_step, self.started = on_step, time.monotonic() - before
        self.begun: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, estimate: Tensor | None = None) -> None:
        """Note where the run is and tell it on; what ``on_step`` raises stops the run."""
        now = self.seconds
        self.begun.setdefault(stage, now)
        if self.on_step is not None:
            self.on_step(Progress(stage, done, total, now, estimate))

    @property
    def seconds(self) -> float:
        """Seconds since the run began, the given ones before included."""
        return time.monotonic() - self.started

    def stages(self) -> dict[str, float]:
        """Seconds of every stage: from its beginning to that of the next."""
        begins = [*self.begun.values(), self.seconds]
        return {name: round(begins[i + 1] - begins[i], 4) for i, name in enumerate(self.begun)}


_turns: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_making_turns = Lock()


@contextmanager
def turn_of(model: CogVideoX) -> Iterator[None]:
    """One run of a model at a time: its weights may move, and a run changes its network. Other threads wait."""
    with _making_turns:
        turn = _turns.setdefault(model.transformer, RLock())
    with turn:
        yield


@contextmanager
def evaluating(model: CogVideoX) -> Iterator[None]:
    """Dropout off for the run; a model that was training goes on training afterwards."""
    training = [network for network in model.networks().values() if network.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()
