"""FLOPs of a step, counted on the real network without memory; memory of device and host, predicted before a run.

The real network, with the adapter and the recomputation asked for, runs forward and back on tensors without memory;
two and three of its blocks are counted and extrapolated linearly. Weights and optimiser follow from shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cogvideox.checkpoints.lora import add_lora
from cogvideox.cpu_ops import assume_native_half
from cogvideox.memory import Request
from cogvideox.memory.count import count, kept, peak_with_gradients
from cogvideox.memory.stages import encoding
from cogvideox.memory.weights import TextShape, bytes_of, low_bit_bytes
from cogvideox.parallel.shard import checkpoint_blocks
from cogvideox.spec import ModelSpec
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.sizes import tokens_of
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.transformer.kernels import use_kernel
from cogvideox.transformer.position import forget_tables

FEW = 2
"""Blocks that are counted, and one more: the rest is extrapolated linearly."""

FLOAT32 = 4


Sample = tuple[tuple[int, ...], int]
"""A clip of a micro-step: (c, t, h, w) of its latents, and its text tokens."""


class FlopCounter:
    """Costs of a transformer of these settings; every shape is counted once."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        with torch.device("meta"):
            self.network = Transformer(config)
        self.forward = cache(self._forward)

    def flops(self, samples: Sequence[Sample], frozen: bool) -> float:
        """FLOPs of a micro-step, forward and backward; weights that are ``frozen`` need no gradients of their own."""
        return (2 if frozen else 3) * sum(self.forward(sample) for sample in samples)

    def activations(self, samples: Sequence[Sample], recompute: bool) -> float:
        """Bytes a micro-step keeps for backward in float32: everything, or all blocks' inputs and one whole block."""
        with torch.device("meta"):
            clips, texts = zip(*(_inputs(self.config, sample) for sample in samples), strict=True)
            times = torch.empty(len(clips))
        full = kept(lambda: self.network.forward_packed(clips, texts, times))
        if not recompute:
            return float(full)
        tokens = sum(tokens_of(shape, text_len, self.config.patch) for shape, text_len in samples)
        layers = self.config.num_layers
        return layers * tokens * self.config.width * 4 + full / layers

    def _forward(self, sample: Sample) -> int:
        with torch.device("meta"):
            (clip, text), t = _inputs(self.config, sample), torch.empty(1)
        return count(lambda: self.network(clip[None], text[None], t)).flops


def _inputs(config: TransformerConfig, sample: Sample) -> tuple[Tensor, Tensor]:
    """An empty clip [c, t, h, w], padded to whole patches in time, and its empty text [l, e]."""
    (_, t, h, w), text_len = sample
    frames = -(-t // config.patch[0]) * config.patch[0]
    return torch.empty(config.in_channels, frames, h, w), torch.empty(text_len, config.text_embed_dim)


@dataclass(frozen=True)
class TrainRequest:
    """One step of one process: the model's spec, the ``samples`` of its largest micro-step, and how it is trained.

    ``micro_steps``: those of an optimiser step that one process does. ``shard`` and ``context``: ranks that
    share the weights, and every clip. ``average``: whether there is an EMA. ``muon``: one moment, not two.
    ``copies``: frozen networks with weights of their own beside the trained one, ``critics``: others that move.
    ``other_passes``: forward passes of a clip besides those that training without them takes.
    """

    spec: ModelSpec
    samples: Sequence[Sample]
    micro_steps: int = 1
    lora: LoraTuning | None = None
    recompute: bool = False
    bf16: bool = True
    average: bool = True
    muon: bool = False
    shard: int = 1
    context: int = 1
    copies: int = 0
    critics: int = 0
    other_passes: float = 0.0
    device: str = "cuda"
    pixels: tuple[int, int, int] = (49, 480, 720)
    """Frames, height and width of the largest clip, which is encoded before the first step."""

    @property
    def tokens(self) -> int:
        """Tokens of that micro-step, text included."""
        return sum(tokens_of(shape, text, self.spec.transformer.patch) for shape, text in self.samples)

    @property
    def shards(self) -> int:
        """Ranks that share one copy of the weights."""
        return self.shard * self.context

    @property
    def on_cpu(self) -> bool:
        """Whether the network is trained on the CPU, where device memory is the host's."""
        return self.device.split(":")[0] == "cpu"


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process. Weights, gradients, optimiser and average: its shard of them. ``moved``: numbers that are
    trained in all. ``step``: the most that forward and backward hold at once beside weights, with the gradients.
    ``gathered``: blocks whose shards are gathered.

    ``encode``: the peak on the device while clips are encoded, before the first step. ``host``: at the start, when
    the transformer, the text encoder and the autoencoder are read in float32.
    """

    weights: int
    moved: int
    gradients: int
    optimiser: int
    average: int
    step: int
    gathered: int
    encode: int
    host: int

    @property
    def activations(self) -> int:
        """Bytes that a step holds beside weights and gradients."""
        return max(self.step - self.gradients, 0)

    @property
    def peak(self) -> int:
        """The most bytes that the device holds at once."""
        training = self.weights + self.optimiser + self.average + self.step + self.gathered
        return max(training, self.encode)


class TrainingPrediction:
    """Everything about one ``TrainRequest``; each count is made once, when it is first asked for."""

    def __init__(self, request: TrainRequest) -> None:
        self.request = request

    @cached_property
    def memory(self) -> TrainingMemory:
        """The bytes of one process, by what they hold."""
        request, (frozen, moved, block) = self.request, self._weights
        shards = request.shards
        own, moving = moved * FLOAT32, 1 + request.critics
        grads, activations = own * moving, (self._step - own) * moving
        step = activations // request.context + grads // shards if shards > 1 else activations + grads
        return TrainingMemory(
            weights=(frozen + grads + own * request.copies) // shards,
            moved=moved,
            gradients=grads // shards,
            optimiser=grads * (1 if request.muon else 2) // shards,
            average=own // shards if request.average else 0,
            step=step,
            gathered=2 * block if shards > 1 else 0,
            encode=self._encode(frozen + grads + own * request.copies),
            host=self._host,
        )

    @cached_property
    def flops(self) -> float:
        """FLOPs that one process computes in a step, what is computed again included."""
        request = self.request
        work = FlopCounter(request.spec.transformer).flops(request.samples, request.lora is not None)
        forward = work / (2 if request.lora is not None else 3)
        again = forward * ((1 + request.critics if request.recompute else 0) + request.other_passes)
        return (work + again) * request.micro_steps / request.context

    @cached_property
    def _weights(self) -> tuple[int, int, int]:
        """(bytes that are frozen, numbers that move, bytes of one block) of the whole network."""
        sizes = [self._sizes(layers) for layers in (1, 2)]
        frozen, moved = (_extrapolated(a, b, self._layers, 1) for a, b in zip(*sizes, strict=True))
        return frozen, moved, sizes[1][0] - sizes[0][0] + (sizes[1][1] - sizes[0][1]) * FLOAT32

    def _sizes(self, layers: int) -> tuple[int, int]:
        """(bytes that are frozen, numbers that move) with so many blocks."""
        tuning, network = self.request.lora, self._network(layers, torch.device("meta"))
        saved = 0
        if tuning is not None:
            if tuning.base in ("int8", "fp8"):
                saved = sum(bytes_of(each) - low_bit_bytes(each) for each in network.transformer_blocks)
            add_lora(network, tuning.rank, tuning.alpha, tuning.targets)
        moved = [weight for weight in network.parameters() if weight.requires_grad]
        frozen = bytes_of(network) - sum(weight.nbytes for weight in moved) - saved
        return frozen, sum(weight.numel() for weight in moved)

    @property
    def _layers(self) -> int:
        return self.request.spec.transformer.num_layers

    @cached_property
    def _step(self) -> int:
        few = min(FEW, self._layers)
        base = self._count(few)
        return base if self._layers <= FEW else _extrapolated(base, self._count(few + 1), self._layers, few)

    def _count(self, layers: int) -> int:
        """Most bytes that a step of a network of so many blocks holds beside its weights."""
        request = self.request
        with _fake(), nullcontext() if request.on_cpu else assume_native_half():
            network = self._network(layers, torch.device("cpu"))
            if request.lora is not None:
                add_lora(network, request.lora.rank, request.lora.alpha, request.lora.targets)
            use_kernel(network, "torch-float32" if request.on_cpu else "torch")
            if request.recompute:
                checkpoint_blocks(network.transformer_blocks)
            spec = request.spec.transformer
            clips, texts = zip(*(_inputs(spec, sample) for sample in request.samples), strict=True)
            times = torch.zeros(len(clips), dtype=torch.long)
            half = torch.autocast("cpu", dtype=torch.bfloat16) if request.bf16 else nullcontext()

            def forward_and_back() -> None:
                with half:
                    if len({(clip.shape, text.shape) for clip, text in zip(clips, texts, strict=True)}) == 1:
                        out = list(network(torch.stack(clips), torch.stack(texts), times))
                    else:
                        out = network.forward_packed(clips, texts, times)
                    loss = torch.stack([each.float().square().mean() for each in out]).sum()
                loss.backward()

            # gradients of earlier micro-steps are there from the start; sharded ones never meet the activations
            return peak_with_gradients(
                forward_and_back, 2 if request.micro_steps > 1 or request.shards > 1 else 1
            )

    def _network(self, layers: int, device: torch.device) -> Transformer:
        """The network with so many blocks; a frozen one as it is stored, in bfloat16 where one byte is kept."""
        config, tuning = self.request.spec.transformer, self.request.lora
        with device:
            network = Transformer(config.changed(num_layers=layers))
        if tuning is not None and tuning.base in ("bfloat16", "int8", "fp8"):
            for module in network.modules():
                for name, weight in module._parameters.items():  # fake tensors cannot be swapped in place
                    if weight is not None:
                        module._parameters[name] = nn.Parameter(weight.detach().to(torch.bfloat16))
        return network

    def _encode(self, weights: int) -> int:
        """The autoencoder in float32 beside the network, on the largest clip."""
        request = self.request
        frames, height, width = request.pixels
        ask = Request(
            spec=request.spec,
            dtype=torch.float32,
            device=request.device,
            frames=frames,
            latents=1,
            height=height,
            width=width,
            given=frames,
        )
        return weights + bytes_of(ask.vae()) + encoding(ask, "chunked")

    @cached_property
    def _host(self) -> int:
        spec = self.request.spec
        text = TextShape.of(spec.text_settings).numbers if spec.text_settings is not None else 0
        with torch.device("meta"):
            one, two = (Transformer(spec.transformer.changed(num_layers=layers)) for layers in (1, 2))
        network = _extrapolated(bytes_of(one), bytes_of(two), self._layers, 1)
        return network + text * FLOAT32


@contextmanager
def _fake() -> Iterator[None]:
    """Tensors without memory inside; tables that are cached between runs are made anew on both sides."""
    forget_tables()
    try:
        with FakeTensorMode():
            yield
    finally:
        forget_tables()


def _extrapolated(base: int, more: int, layers: int, few: int) -> int:
    """A straight line through ``few`` and ``few + 1`` blocks, at ``layers``."""
    return base + (layers - few) * (more - base)


def variants(request: TrainRequest) -> list[tuple[str, TrainRequest]]:
    """What to try when a request does not fit, cheapest first, with the settings that ask for it."""
    tried: list[tuple[str, TrainRequest]] = []
    now, settings = request, ""
    if not now.recompute:
        now, settings = replace(now, recompute=True), "task.recompute=true"
        tried.append((settings, now))
    if now.lora is not None and now.lora.base in (None, "float32", "bfloat16"):
        for base in ("bfloat16", "int8"):
            if base != now.lora.base:
                lora = now.lora.changed(base=base)
                tried.append((f"{settings} task.lora.base={base}".strip(), replace(now, lora=lora)))
        return tried
    if now.average:
        now, settings = replace(now, average=False), f"{settings} optim.ema=0".strip()
        tried.append((settings, now))
    for shard in (2, 4, 8, 16, 32, 64):
        if shard > request.shard and (request.lora is None or request.lora.base != "int8"):
            tried.append((f"{settings} mesh.shard={shard}".strip(), replace(now, shard=shard)))
    return tried
