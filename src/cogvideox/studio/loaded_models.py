"""Models that stay loaded between videos; those used longest ago make way when memory is needed."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cogvideox.device import available
from cogvideox.generation.job import Job, Prepared
from cogvideox.generation.preflight import read_limit
from cogvideox.generation.watch import Previewer
from cogvideox.memory import Policy
from cogvideox.memory.offload import give_back
from cogvideox.model import CogVideoX


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, how it is kept there, its bytes of weights and what makes its previews."""

    model: CogVideoX
    policy: Policy
    size: int
    previewer: Previewer


class LoadedModels:
    """The models of one worker, by what decides their weights; ``load`` makes one from a job and a plan."""

    def __init__(self, device: str, load: Callable[[Job, Prepared], CogVideoX]) -> None:
        self.device, self.load = device, load
        self.kept: OrderedDict[tuple[Any, ...], LoadedModel] = OrderedDict()

    def limit(self, asked: str | None = None) -> int | None:
        """Bytes that a run may take: what is free or would be without the models that are kept, at most ``asked``.

        ``asked``: such as "12GB". Raises ConfigError for what is no size.
        """
        most, free = read_limit(asked), available(self.device)
        if free is not None:
            free += sum(each.size for each in [*self.kept.values()])
        return min((each for each in (most, free) if each is not None), default=None)

    def get(self, job: Job, prepared: Prepared) -> LoadedModel:
        """The model of a planned video: a kept one, or loaded after others made way. Raises what ``load`` raises."""
        key = weights_key(job, prepared)
        kept = self.kept.get(key)
        if kept is not None and _of_weights(kept.policy) == _of_weights(prepared.policy):
            self.kept.move_to_end(key)
            self._make_room(self._needed(prepared) - kept.size, key)
            return kept
        if kept is not None:
            del self.kept[key], kept
            self._give_back()
        self._make_room(self._needed(prepared), key)
        model = self.load(job, prepared)
        self.kept[key] = LoadedModel(model, prepared.policy, size_of(model), Previewer(model, model.tiny_vae))
        return self.kept[key]

    def drop_all(self) -> None:
        """Give all memory back, such as after a run that did not fit."""
        self.kept.clear()
        self._give_back()

    def _needed(self, prepared: Prepared) -> int:
        choice = prepared.memory.choice
        return choice.peak if choice is not None else 0

    def _make_room(self, needed: int, key: tuple[Any, ...]) -> None:
        """Unload what was used longest ago until so many bytes are free, or nothing else is kept."""
        others = [each for each in self.kept if each != key]
        while others and (free := available(self.device)) is not None and free < needed:
            del self.kept[others.pop(0)]
            self._give_back()

    def _give_back(self) -> None:
        gc.collect()
        give_back(torch.device(self.device))


def weights_key(job: Job, prepared: Prepared) -> tuple[Any, ...]:
    """What decides the weights of a model in memory; equal for two jobs that can share one."""
    text = (job.text_device, job.text_cache, job.text_encoder)
    beside = (job.tiny_vae, *(each.path for each in prepared.plan.options.control_nets))
    return str(prepared.folder), job.kind, job.adapters, job.alpha, job.dtype, job.device, beside, text


def size_of(model: CogVideoX) -> int:
    """Bytes of a model's weights that are in memory."""
    tensors = {id(each): each for network in model.networks().values() for each in network.parameters()}
    return sum(each.numel() * each.element_size() for each in tensors.values() if each.device.type != "meta")


def _of_weights(policy: Policy) -> tuple[str, ...]:
    """What of a policy is decided when a model is loaded."""
    return policy.residence, policy.storage, policy.products
