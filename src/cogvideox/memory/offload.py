"""Weights that live elsewhere and visit the device: one stage at a time, or block by block.

Applied from outside, by hooks, to a finished model whose weights lie in host memory or are still in their files; the
networks know nothing of it and give the same bits. For inference only: what happens to a visiting copy is forgotten
when it leaves.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.errors import ConfigError, suggest
from cogvideox.files.stored import stored_of
from cogvideox.memory.policy import RESIDENCES, Residence
from cogvideox.memory.streaming import (
    BlockReader,
    BlockStreamer,
    Pin,
    Slot,
    SlotKey,
    key_of,
    like,
    moved,
    page_lock,
    slots,
)
from cogvideox.memory.weights import blocks_of
from cogvideox.model import CogVideoX


def offload(
    model: CogVideoX,
    device: torch.device | str,
    residence: Residence,
    text_device: torch.device | str | None = None,
) -> CogVideoX:
    """Let ``model`` compute on ``device`` with its weights resident, one stage at a time, or streamed.

    Returns the model, whose weights must lie in host memory, or be in their files (``load`` with ``read_weights``
    false): then "phases" and "disk" read them when they are needed, of a text encoder layer by layer, and forget them.
    ``text_device``: the text encoder, whose weights are in files (``load`` with a ``text_device``), is read layer by
    layer on this device whenever it is called, and forgotten afterwards. On a CPU nothing can be saved by moving what
    is in memory: that model is left as it is, with a warning. Raises ConfigError for "disk" of a model that is in
    memory, and for a residence that does not exist.
    """
    if residence not in RESIDENCES:
        hint = suggest(residence, RESIDENCES)
        raise ConfigError(f"memory {residence!r}: unknown{hint}; choose one of {', '.join(RESIDENCES)}")
    device = torch.device(device)
    if text_device is not None and model.text is not None:
        read_when_called(model.text.model, torch.device(text_device))
    if model.in_files and residence in ("phases", "disk"):
        return install(model, device, stream=residence == "disk")
    if residence == "disk":
        raise ConfigError("memory 'disk': this model is in memory; load it with read_weights=False")
    networks = [n for name, n in model.networks().items() if name != "text_encoder" or text_device is None]
    for network in networks:
        read_now(network)
    if residence == "resident":
        for network in networks:
            network.to(device)
        return model
    if device.type == "cpu":
        warnings.warn(
            f"memory {residence!r} has no effect on a CPU: its memory is where the weights live", stacklevel=2
        )
        return model
    return install(model, device, stream=residence == "stream")


def install(model: CogVideoX, device: torch.device, stream: bool, pin: Pin | None = None) -> CogVideoX:
    """Hook a model so that its weights are copied to ``device`` while they are needed; returns it.

    On a CPU too, where ``offload`` does nothing: tests watch the copies there. ``pin`` page-locks the blocks that are
    streamed; None: ``page_lock`` for a GPU, nothing elsewhere.
    """
    if pin is None and device.type == "cuda":
        pin = page_lock
    group = OffloadGroup()
    halves = model.vae.encoder, model.vae.decoder  # small, and their stages differ in size: never streamed
    if model.in_files:  # what no stage owns is small
        read_now(model.vae, apart=halves)
    kind = BlockReader if model.in_files else BlockStreamer
    beside = model.transformer  # ControlNets work at the same time as the transformer
    for network in (*stages_of(model), *model.control_nets.values()):
        once = model.in_files and model.text is not None and network is model.text.model
        blocks = blocks_of(network) if (stream or once) and network not in halves else []
        streamer = kind(blocks, device, pin).install() if blocks else None
        stage = beside if network in model.control_nets.values() else network
        group.add(OffloadedModule(network, device, streamer, stage))
    model.compute_device = device
    return model


def stages_of(model: CogVideoX) -> list[nn.Module]:
    """The networks that are never needed at the same time; not a text encoder that comes by itself."""
    networks: list[nn.Module] = [model.transformer, model.vae.encoder, model.vae.decoder]
    if model.text is None or "comes" in vars(model.text.model):
        return networks
    return [*networks, model.text.model]


def read_when_called(network: nn.Module, device: torch.device) -> None:
    """Read a network from its files whenever it is called, block by block, and forget it when it has answered.

    Raises ConfigError for one that is in memory.
    """
    if any(stored_of(weight) is None for weight in network.parameters()):
        raise ConfigError("text_device: the text encoder is in memory; load the model with a text_device")
    blocks, pin = blocks_of(network), page_lock if device.type == "cuda" else None
    comes = OffloadedModule(network, device, BlockReader(blocks, device, pin).install() if blocks else None)
    OffloadGroup().add(comes)
    network.register_forward_hook(lambda *_: comes.leave(), always_call=True)
    vars(network)["comes"] = comes


@dataclass
class OffloadedModule:
    """A network that visits a device; the blocks of ``stream`` come and go by themselves.

    ``stage``: the network at whose stage it is needed, itself by default.
    """

    network: nn.Module
    device: torch.device
    stream: BlockStreamer | None = None
    stage: nn.Module | None = None
    home: dict[SlotKey, tuple[Slot, Tensor]] = field(default_factory=dict)

    def enter(self) -> None:
        """Copy the weights to the device that are not there; layers that left the network meanwhile go home."""
        apart = self.stream.blocks if self.stream is not None else ()
        wanted = {key_of(slot): slot for slot in slots(self.network, apart)}
        self._send_home([key for key in self.home if key not in wanted])
        seen: dict[Tensor, Tensor] = {}  # tied weights stay one
        for key, (table, name) in wanted.items():
            if key not in self.home:
                tensor = table[name]
                if tensor not in seen:
                    stored = stored_of(tensor)
                    values = tensor.detach() if stored is None else stored.read()
                    seen[tensor] = like(tensor, values.to(self.device, non_blocking=True))
                self.home[key] = (table, name), tensor  # now, not before: reading may fail or be interrupted
                table[name] = seen[tensor]

    def leave(self) -> None:
        """Put the originals back; the copies are freed."""
        self._send_home(list(self.home))
        if self.stream is not None:
            self.stream.leave()

    def _send_home(self, keys: Sequence[SlotKey]) -> None:
        for key in keys:
            (table, name), tensor = self.home.pop(key)
            table[name] = tensor


@dataclass
class OffloadGroup:
    """Networks of which those of one stage at a time have their weights on the device."""

    members: list[OffloadedModule] = field(default_factory=list)

    def add(self, entering: OffloadedModule) -> None:
        """Whenever this network or a child of it is called, bring its weights in and send other stages' home."""
        self.members.append(entering)
        stage = entering.stage or entering.network

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if not entering.home:
                for other in self.members:
                    if (other.stage or other.network) is not stage:
                        other.leave()
                give_back(entering.device)
            entering.enter()
            return moved(args, entering.device), moved(kwargs, entering.device)

        for module in (entering.network, *entering.network.children()):
            module.register_forward_pre_hook(before, with_kwargs=True)


def read_now(network: nn.Module, apart: Sequence[nn.Module] = ()) -> None:
    """Read into host memory what is still in files, one tensor at a time; the modules of ``apart`` are left out."""
    for table, name in slots(network, apart):
        if (stored := stored_of(table[name])) is not None:
            table[name] = like(table[name], stored.read())


def give_back(device: torch.device) -> None:
    """Return to the device what torch's allocator holds and nobody uses: the next stage wants blocks of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
