"""How many bytes the weights of a model take, counted without loading one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from cogvideox.memory.request import Request
from cogvideox.spec import any_block
from cogvideox.transformer import Transformer
from cogvideox.transformer.controlnet import ControlNetConfig
from cogvideox.transformer.modulation import ModulationTable, tabulated

Storage = Literal["stored", "int8", "fp8", "int4"]
Size = Callable[..., int]
"""Bytes of a module, whose names in its network begin with ``prefix``."""
FIRST_BLOCK = "transformer_blocks.0."
INT4 = 18 / 32
"""Bytes of a weight in int4: half a byte, and a float16 scale for each 32."""
BLOCKS_STREAMED = 2
"""Blocks on the device at once when they are streamed: one computes, the next arrives."""


@dataclass(frozen=True)
class TextShape:
    """The sizes of a T5 encoder that decide its memory."""

    vocabulary: int
    width: int
    heads: int
    head_width: int
    hidden: int
    layers: int
    gated: bool
    buckets: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TextShape:
        """From the names of T5's ``config.json``; what is missing has T5's default."""
        return cls(
            vocabulary=settings.get("vocab_size", 32_128),
            width=settings.get("d_model", 512),
            heads=settings.get("num_heads", 8),
            head_width=settings.get("d_kv", 64),
            hidden=settings.get("d_ff", 2048),
            layers=settings.get("num_layers", 6),
            gated="gated" in settings.get("feed_forward_proj", "relu"),
            buckets=settings.get("relative_attention_num_buckets", 32),
        )

    @property
    def table(self) -> int:
        """Weights outside the layers: the vocabulary, the position biases and the last norm."""
        return self.vocabulary * self.width + self.buckets * self.heads + self.width

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        inner = self.heads * self.head_width
        return 4 * self.width * inner + (2 + self.gated) * self.width * self.hidden + 2 * self.width

    @property
    def numbers(self) -> int:
        """How many weights there are; a test holds this against the real network."""
        return self.table + self.layers * self.layer

    def network(self, dtype: torch.dtype, storage: Storage = "stored") -> NetworkBytes:
        """Memory of the weights. In a float16 model the outputs of the feed-forward layers stay float32."""
        if storage == "stored":
            kept = self.width * self.hidden if dtype == torch.float16 else 0
            block = self.layer * dtype.itemsize + kept * (torch.float32.itemsize - dtype.itemsize)
        else:
            block = self.layer if storage != "int4" else round(self.layer * INT4)
        around = self.table * dtype.itemsize
        return NetworkBytes(around + self.layers * block, around, block)

    def as_stored(self, network: NetworkBytes, stored: Mapping[str, int], dtype: torch.dtype) -> NetworkBytes:
        """The same where a layer keeps its quantised weights as the files do: bytes by name."""
        inner = self.width * self.heads * self.head_width
        sizes = {name: inner if "SelfAttention" in name else self.width * self.hidden for name in stored}
        inside = [name for name in stored if name.startswith("encoder.block.")]
        wide = {
            name: 4 if name.endswith("wo.weight") and dtype == torch.float16 else dtype.itemsize
            for name in inside
        }
        saved = sum(sizes[name] * wide[name] - stored[name] for name in inside if "relative" not in name)
        block = network.block - saved
        return NetworkBytes(network.around + self.layers * block, network.around, block)

    def work(self, tokens: int, dtype: torch.dtype) -> int:
        """Most bytes alive while one prompt is read: scores and their softmax, or the widened rows."""
        scores = 3 * self.heads * tokens * tokens * max(dtype.itemsize, 4)
        rows = 3 * self.hidden * tokens * dtype.itemsize
        return max(scores, rows) + 5 * self.width * tokens * dtype.itemsize


def bytes_of(module: nn.Module) -> int:
    """Memory of the parameters and buffers of a network, meta or real."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def low_bit_bytes(module: nn.Module, storage: Storage = "int8") -> int:
    """The same when every linear layer keeps one byte a weight and a float32 scale per output, or blocks of int4."""
    saved = 0
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and storage == "int4":
            whole = layer.in_features % 32 == 0
            saved += round(layer.weight.numel() * (layer.weight.element_size() - INT4)) if whole else 0
        elif isinstance(layer, nn.Linear):
            weight = layer.weight
            saved += weight.numel() * (weight.element_size() - 1) - 4 * weight.shape[0]
    return bytes_of(module) - saved


@dataclass(frozen=True)
class NetworkBytes:
    """Bytes of a network made of equal blocks: all of it, all but its blocks, and its largest block."""

    total: int
    around: int
    block: int

    def beside(self, more: int) -> NetworkBytes:
        """The same with so many bytes around the blocks."""
        return NetworkBytes(self.total + more, self.around + more, self.block)

    def __add__(self, other: NetworkBytes) -> NetworkBytes:
        """Both at work at the same time, each with blocks of its own."""
        return NetworkBytes(self.total + other.total, self.around + other.around, self.block + other.block)

    @property
    def streamed(self) -> int:
        """On the device when blocks are streamed: what is around them and BLOCKS_STREAMED of them."""
        return min(self.total, self.around + BLOCKS_STREAMED * self.block)


@dataclass(frozen=True)
class Weights:
    """Bytes of every part of a model; those of ControlNets are the transformer's, which they work beside.

    ``denoiser`` is the transformer while it denoises: with ``tables`` of its
    modulations, and, where they can wait elsewhere, without the layers that make them. ``visiting``: the same where
    weights wait in files, without those layers on a CPU too.
    """

    text: NetworkBytes
    transformer: NetworkBytes
    denoiser: NetworkBytes
    visiting: NetworkBytes
    vae: int
    tables: int

    @property
    def total(self) -> int:
        """Bytes of all networks together: text encoder, transformer, autoencoder."""
        return self.text.total + self.transformer.total + self.vae


def stored_bytes(module: nn.Module, stored: Mapping[str, int], prefix: str = "") -> int:
    """The same when linear layers keep quantised weights as the files do: their bytes by name (``spec.any_block``).

    ``prefix``: what stands before the names of ``module`` in its network.
    """
    size = bytes_of(module)
    for name, layer in module.named_modules():
        held = stored.get(any_block(f"{prefix}{name}.weight")) if isinstance(layer, nn.Linear) else None
        if held is not None:
            size += held - layer.weight.numel() * layer.weight.element_size()
    return size


def weigh(request: Request, text: TextShape | None, storage: Storage) -> Weights:
    """Bytes of every part, counted from one block. Low-bit storage leaves the autoencoder as it is."""
    stored = request.spec.stored_bytes
    size: Size = partial(stored_bytes, stored=stored.get("transformer", {}))
    if storage != "stored":
        size = partial(_low_bit_blocks, storage=storage)
    one = request.transformer(1)
    encoder = text.network(request.dtype, storage) if text is not None else NetworkBytes(0, 0, 0)
    if text is not None and storage == "stored":
        encoder = text.as_stored(encoder, stored.get("text_encoder", {}), request.dtype)
    transformer = _transformer(request, one, size)
    beside = sum((_controlnet(request, config) for config in request.control_nets), _adapters(request))
    transformer += beside
    denoiser, visiting, added = transformer, transformer, 0
    if request.tables:
        with tabulated(one, request.times):
            tables = [(name, m.table) for name, m in one.named_modules() if isinstance(m, ModulationTable)]
            without = _transformer(request, one, size) + beside
        layers = request.spec.transformer.num_layers
        added = sum(t.nbytes * (layers if "transformer_blocks" in name else 1) for name, t in tables)
        visiting = without.beside(added)
        denoiser = transformer.beside(added) if request.on_cpu else visiting
    return Weights(encoder, transformer, denoiser, visiting, bytes_of(request.vae()), added)


def _low_bit_blocks(module: nn.Module, storage: Storage, prefix: str = "") -> int:
    """Bytes where the blocks alone are stored so."""
    if prefix:
        return low_bit_bytes(module, storage)
    blocks = [block for child in module.modules() if isinstance(child, nn.ModuleList) for block in child]
    return bytes_of(module) + sum(low_bit_bytes(block, storage) - bytes_of(block) for block in blocks)


def _transformer(request: Request, one: Transformer, size: Size) -> NetworkBytes:
    """Carried on from a transformer of one block."""
    block = size(one.transformer_blocks[0], prefix=FIRST_BLOCK)
    around = size(one, prefix="") - block
    return NetworkBytes(around + request.spec.transformer.num_layers * block, around, block)


def _adapters(request: Request) -> NetworkBytes:
    """What adapters add, which are never stored in fewer bits; every block as large as the largest."""
    around, block = request.adapters.around, request.adapters.block
    return NetworkBytes(around + request.spec.transformer.num_layers * block, around, block)


def _controlnet(request: Request, config: ControlNetConfig) -> NetworkBytes:
    """Carried on from a ControlNet of one block and its projector; it is never stored in fewer bits."""
    one = request.controlnet(config, 1)
    block, projector = bytes_of(one.transformer_blocks[0]), 0
    if config.out_proj_dim is not None:
        projector = bytes_of(one.out_projectors)
    around = bytes_of(one) - block + (config.num_layers - 1) * projector
    return NetworkBytes(around + config.num_layers * block, around, block)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The largest list of equal blocks in a network; [] where such blocks are less than half of it."""
    lists = [list(module) for module in network.modules() if isinstance(module, nn.ModuleList)]
    lists = [blocks for blocks in lists if _alike(blocks)]
    sizes = [sum(p.numel() for block in blocks for p in block.parameters()) for blocks in lists]
    whole = sum(p.numel() for p in network.parameters())
    return lists[sizes.index(max(sizes))] if lists and 2 * max(sizes) > whole else []


def _alike(blocks: list[nn.Module]) -> bool:
    """At least two blocks of one kind and about one size: only then do two buffers save anything."""
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    return len(blocks) > 1 and len({type(block) for block in blocks}) == 1 and max(sizes) < 1.1 * min(sizes)
