"""The parts of ``gpu.py``: each measures something by itself and notes every figure the moment it is known."""

from __future__ import annotations

import gc
import math
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from gpu_page import Records

from cogvideox.checkpoints import load_model
from cogvideox.diffusion import Constant, Schedule, ddim, guided
from cogvideox.errors import NumericsError
from cogvideox.generation import GenerateOptions, generate
from cogvideox.gpu_kernels import may_run
from cogvideox.memory import has_torchao, lower, offload
from cogvideox.memory.lowbit import Products
from cogvideox.memory.weights import Storage
from cogvideox.model import CogVideoX
from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec
from cogvideox.text import T5Config, T5Encoder
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import EMA, OptimConfig, build_optimizers
from cogvideox.training.recipes import recipe
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import DiffusionSample, fix_kernel, velocity_errors
from cogvideox.training.tasks.diffusion_network import attention_fn, prepare_network
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.transformer import TokenGrid, Transformer, split
from cogvideox.transformer.attention_kernels import KERNELS
from cogvideox.transformer.compiled import compiled, graph_replay
from cogvideox.transformer.fused import FORMS, faster_forms, fused
from cogvideox.transformer.kernels import Fastest, using_kernel
from cogvideox.transformer.layout import ClipTokens
from cogvideox.transformer.modulation import tabulated
from cogvideox.vae import VAE


@dataclass(frozen=True)
class Size:
    """A video: frames, height and width in pixels."""

    name: str
    frames: int
    height: int
    width: int

    def latents(self, spec: ModelSpec) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        factor = spec.vae.spatial_compression_ratio
        return (self.frames - 1) // 4 + 1, self.height // factor, self.width // factor

    def clip(self, spec: ModelSpec) -> ClipTokens:
        """Its tokens."""
        t, h, w = self.latents(spec)
        patch = spec.transformer.patch_size
        return ClipTokens(spec.text_tokens, TokenGrid(t, h // patch, w // patch))


SMALL_VIDEO = Size("256×384, 6 s", 49, 256, 384)
VIDEO = Size("480×720, 6 s", 49, 480, 720)
LARGE_VIDEO = Size("768×1360, 5 s", 41, 768, 1360)
SIZES = (SMALL_VIDEO, VIDEO, LARGE_VIDEO)


class Unusable(Exception):
    """After an error the device answers no more, or memory stays taken: the rest needs another process."""


@dataclass
class Bench:
    """One machine, the file its figures go to, and the part that is running."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    small: bool
    records: Records
    running: str = ""

    @classmethod
    def here(cls, records: Records, small: bool, repeats: int = 3) -> Bench:
        """On the NVIDIA GPU in bf16, or on the CPU in float32 where there is none."""
        cuda = torch.cuda.is_available()
        device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
        return cls(torch.device(device), dtype, repeats, small, records)

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.device.type == "cuda"

    def note(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Keep and show a figure."""
        self.records.add("figure", part=self.running, name=name, value=value, unit=unit, note=note)
        print(f"{name}: {value:.4g} {unit} {note}", file=sys.stderr, flush=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """What raises inside is noted as the failure of ``name``, and what comes after it is measured all the same.

        Raises Unusable when nothing can be measured after it in this process.
        """
        try:
            yield
        except Exception as error:
            self.failed(name, error)
        self.free()

    def failed(self, name: str, error: Exception) -> None:
        """Note an error; raises Unusable when the device does not answer any more."""
        if isinstance(error, Unusable):
            raise error
        lines = str(error).strip().splitlines() or [""]
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {lines[0][:200]} ({Path(where.filename).name}:{where.lineno})"
        self.records.add("failure", part=self.running, name=name, error=words)
        print(f"{name}: {words}", file=sys.stderr, flush=True)
        traceback.clear_frames(error.__traceback__)  # they hold tensors
        error.__traceback__ = None
        try:
            self.free()
            torch.zeros(8, device=self.device).sum().item()
        except Exception as dead:
            raise Unusable(str(dead)) from None

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of one run."""
        self.wait()
        start = perf_counter()
        work()
        self.wait()
        return perf_counter() - start

    def seconds(self, work: Callable[[], object], runs: int | None = None) -> float:
        """Median of some runs after one."""
        work()
        return median(self.timed(work) for _ in range(runs or self.repeats))

    def peak(self, work: Callable[[], object]) -> tuple[int, int]:
        """Bytes that tensors took at most while ``work`` ran, and bytes taken from the device; 0 without a GPU."""
        self.free()
        if not self.cuda:
            work()
            return 0, 0
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)

    def note_peak(self, name: str, work: Callable[[], object], without: int = 0, note: str = "") -> None:
        """Measure and keep a peak, weights of ``without`` bytes aside."""
        allocated, reserved = self.peak(work)
        held = f"{(reserved - without) / 1e9:.2f} GB taken from the device" if self.cuda else "no GPU to ask"
        self.note(name, max(0, allocated - without) / 1e9, "GB", f"{held}{note}")

    def spec(self, name: str) -> ModelSpec:
        """A preset; small ones have two narrow layers and narrow other networks."""
        spec = get_preset(name)
        if not self.small:
            return spec
        narrow = {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 16, "time_embed_dim": 32}
        slim = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
        text = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 8}
        return replace(
            spec,
            transformer_settings={**spec.transformer_settings, **narrow},
            vae_settings={**spec.vae_settings, **slim},
            text_settings={**(spec.text_settings or {}), **text},
        )

    def size(self, size: Size) -> Size:
        """The size, or a tiny one under its name."""
        return replace(size, frames=9, height=32, width=48) if self.small else size

    def sizes(self, *sizes: Size) -> list[tuple[Size, Size]]:
        """(the size, what is measured in its place)."""
        return [(size, self.size(size)) for size in (sizes or SIZES)]

    def drawn(self, kind: type, config: object, dtype: torch.dtype | None = None) -> Any:
        """A network with small random weights, drawn on the device."""
        with torch.device("meta"):
            network = kind(config).eval().to(dtype or self.dtype)
        network.to_empty(device=self.device)
        for weight in network.parameters():
            weight.data.normal_(0, 0.02)
        return network.requires_grad_(False)

    def noise(self, *shape: int) -> torch.Tensor:
        """Standard normal."""
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def rate(self, name: str) -> float:
        """A rate in FLOP/s that an earlier part measured; NaN where it did not."""
        value = self.records.value(name)
        return value * 1e12 if value else math.nan


def run_parts(bench: Bench, expected: Mapping[str, float], deadline: float) -> int:
    """Run the parts (name -> seconds expected) that fit before ``deadline``; 0, or 1 when a part left this process
    useless and those behind it need another."""
    bench.records.add("run", **facts(bench))
    for name, seconds in expected.items():
        left = deadline - time.time()
        if seconds > left:
            why = f"{seconds:.0f} s expected, {max(0, left):.0f} s left"
            bench.records.add("skipped", part=name, why=why)
            continue
        bench.running, start = name, perf_counter()
        bench.records.add("begin", part=name)
        try:
            with torch.no_grad(), bench.trying(f"part {name}"):
                WORK[name](bench)
        except Unusable as error:
            bench.records.add("failure", part=name, error=f"the device answers no more: {error}"[:300])
            return 1
        bench.records.add("end", part=name, seconds=round(perf_counter() - start, 2))
        if bench.cuda and torch.cuda.memory_allocated(bench.device) > 2e9:
            return 1  # something is held; what comes next wants the whole card
    return 0


def facts(bench: Bench) -> dict[str, Any]:
    """The machine and the versions."""
    found = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    found |= {"small": bench.small, "device": platform.machine()}
    if bench.cuda:
        about = torch.cuda.get_device_properties(bench.device)
        found |= {
            "device": about.name,
            "memory": about.total_memory,
            "capability": f"{about.major}.{about.minor}",
        }
        try:
            cudnn = torch.backends.cudnn.version()
        except (
            RuntimeError
        ) as error:  # another cuDNN than torch was built for: worth knowing, no reason to end
            cudnn = str(error)[:120]
        found |= {"cuda": torch.version.cuda, "cudnn": cudnn}
    return found


def smoke(bench: Bench) -> None:
    """The shipped model beside the CPU, and two training steps of each kind as `train` makes them."""
    prompt, steps = "a red circle moves to the right", 2 if bench.small else 10
    size = {"frames": 9, "height": 32, "width": 32} if bench.small else {}
    options = GenerateOptions(prompt=prompt, seed=1, steps=steps, **size)
    reference = generate(load_model("tiny", "float32", "cpu"), options).frames.astype("float32")
    for dtype in ("float32", "bfloat16"):
        with bench.trying(f"shipped model, {dtype}"):
            made = generate(load_model("tiny", dtype, bench.device), options).frames.astype("float32")
            error = ((made - reference) ** 2).mean()
            likeness = min(99.0, 10 * math.log10(255**2 / max(error, 1e-9)))
            largest = abs(made - reference).max()
            bench.note(
                f"shipped model, {dtype}",
                likeness,
                "dB to the CPU",
                f"largest difference {largest:.0f} of 255",
            )
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in TRAINING_KINDS.items():
            _training_smoke(bench, Path(folder), name, settings)


TRAINING_KINDS: dict[str, tuple[str, ...]] = {
    "all weights, muon": (),
    "all weights, adamw": ("optim.name=adamw",),
    "recompute": ("task.recompute=true",),
    "adapter": ("task.lora={rank: 8}",),
    "from an image": ("recipe=world-i2v",),
    "accumulation": ("task.accumulation=2",),
}
COMPILED_KINDS = {
    "compile": ("task.compile=true",),
    "compile and recompute": ("task.compile=true", "task.recompute=true"),
}


def _training_smoke(bench: Bench, folder: Path, name: str, settings: Sequence[str]) -> None:
    with bench.trying(f"train, {name}"), torch.enable_grad():
        losses = {
            device: _losses(bench, folder, settings, device)
            for device in dict.fromkeys(("cpu", bench.device.type))
        }
        here, there = losses[bench.device.type], losses["cpu"]
        unlike = max(abs(a - b) / abs(b) for a, b in zip(here, there, strict=True))
        bench.note(f"train, {name}", here[-1], "loss of the second step", f"{unlike:.1%} from the CPU's")


def _losses(bench: Bench, folder: Path, settings: Sequence[str], device: str) -> list[float]:
    """Losses of the first two steps of the shipped model's recipe on a few clips."""
    base = next((word.partition("=")[2] for word in settings if word.startswith("recipe=")), "world-t2v-fine")
    changes = [word for word in settings if not word.startswith("recipe=")]
    if device == "cpu":  # the same numbers, in less time
        changes = [word for word in changes if word != "task.compile=true"]
    out = folder / f"{len(list(folder.iterdir()))}"
    run = recipe(base)
    assert isinstance(run, Run)
    tiny = ("task.size=16", "task.frames=9") if bench.small else ("precision=bf16",)
    if bench.small and not bench.cuda:  # Muon's half-precision products take a CPU a minute
        tiny += ("precision=fp32", "optim.name=adamw")
    run = run.override(
        [
            f"out={out}", "steps=3", "log_every=1", "task.start=tiny-base", "task.vae=tiny", "task.text=tiny",
            f"task.cache={folder / 'latents'}", "task.clips=16", "task.batch=4", f"task.device={device}",
            *tiny, *changes,
        ]
    )  # fmt: skip
    train(run, stop_at=2)
    lines = Records(out / "metrics.jsonl").lines()
    return [line["loss"] for line in lines if "loss" in line]


def smoke_compiled(bench: Bench) -> None:
    """Two training steps compiled, and compiled with recomputation."""
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in COMPILED_KINDS.items():
            if bench.cuda or not bench.small:  # a CPU would spend minutes in its compiler
                _training_smoke(bench, Path(folder), name, settings)


def products(bench: Bench) -> None:
    """Rates of matrix products, of copies on the device, and of copies to it."""
    side = 256 if bench.small else 8192
    a, b = bench.noise(side, side), bench.noise(side, side)
    bench.note("matrix product", 2 * side**3 / bench.seconds(lambda: a @ b) / 1e12, "TFLOP/s")
    tokens, width = (64, 64) if bench.small else (2 * 17776, 3072)
    x, weight = bench.noise(tokens, width), bench.noise(4 * width, width)
    took = bench.seconds(lambda: F.linear(x, weight))
    bench.note("matrix product of a 5B layer", 2 * tokens * width * 4 * width / took / 1e12, "TFLOP/s")
    with bench.trying("copy on the device"):
        to = torch.empty(1 << 20 if bench.small else 4 << 30, dtype=torch.uint8, device=bench.device)
        source = torch.zeros_like(to)
        took = bench.seconds(lambda: to.copy_(source))
        bench.note("copy on the device", 2 * to.nbytes / took / 1e12, "TB/s", "read and written")
    if bench.cuda:
        with bench.trying("copy from pinned memory"):
            host = torch.empty(1 << 20 if bench.small else 1 << 30, dtype=torch.uint8, pin_memory=True)
            there = torch.empty_like(host, device=bench.device)
            bench.note(
                "copy from pinned memory",
                host.nbytes / bench.seconds(lambda: there.copy_(host)) / 1e9,
                "GB/s",
            )
        with bench.trying("matrix product, fp8"):
            a8, b8 = (bench.noise(side, side).to(torch.float8_e4m3fn) for _ in range(2))
            one = torch.ones((), device=bench.device)
            took = bench.seconds(lambda: torch._scaled_mm(a8, b8.t(), one, one, out_dtype=torch.bfloat16))
            bench.note("matrix product, fp8", 2 * side**3 / took / 1e12, "TFLOP/s", "one scale a tensor")


def attention(bench: Bench) -> None:
    """Rate of every kernel at head width 64, its likeness to torch's; the best of each size is the roofline's."""
    heads = 2 if bench.small else 48
    for size, here in bench.sizes():
        with bench.trying(f"attention {size.name}"):
            _attention_of(bench, size, here, heads)
    _attention_backward(bench, heads)


def _attention_of(bench: Bench, size: Size, here: Size, heads: int) -> None:
    tokens = here.clip(bench.spec("5b")).tokens
    q, k, v = (bench.noise(2, heads, tokens, 64) for _ in range(3))
    expected = KERNELS[0].run(q, k, v).float()
    best = 0.0
    for kernel in KERNELS:
        if not kernel.usable(q) or kernel.name == "flex":
            continue
        name = f"attention {size.name}, {kernel.name}"
        with bench.trying(name):
            unlike = float((kernel.run(q, k, v).float() - expected).abs().max() / expected.abs().max())
            rate = 4 * 2 * heads * tokens**2 * 64 / bench.seconds(partial(kernel.run, q, k, v)) / 1e12
            bench.note(name, rate, "TFLOP/s", f"{unlike:.1e} from torch's own")
            best = best if kernel.approximate else max(best, rate)
    bench.note(f"attention {size.name}, best", best, "TFLOP/s")


def _attention_backward(bench: Bench, heads: int) -> None:
    """Forward and back of every kernel at 480×720, one clip: 3.5 times the products of the forward pass."""
    tokens = bench.size(VIDEO).clip(bench.spec("5b")).tokens
    q, k, v = (bench.noise(1, heads, tokens, 64).requires_grad_() for _ in range(3))
    for kernel in KERNELS:
        if not kernel.usable(q) or kernel.name == "flex":
            continue
        name = f"attention {VIDEO.name}, {kernel.name}, forward and back"
        with bench.trying(name), torch.enable_grad():
            took = bench.seconds(
                lambda kernel=kernel: torch.autograd.grad(kernel.run(q, k, v).sum(), (q, k, v))
            )
            bench.note(name, 3.5 * 4 * heads * tokens**2 * 64 / took / 1e12, "TFLOP/s")


def attention_flex(bench: Bench) -> None:
    """FlexAttention, which is compiled first, at 480×720."""
    if not bench.cuda:
        return
    spec, heads = bench.spec("5b"), 2 if bench.small else 48
    tokens = bench.size(VIDEO).clip(spec).tokens
    q, k, v = (bench.noise(2, heads, tokens, 64) for _ in range(3))
    flex = next(kernel for kernel in KERNELS if kernel.name == "flex")
    first = bench.timed(lambda: flex.run(q, k, v))
    rate = 4 * 2 * heads * tokens**2 * 64 / bench.seconds(lambda: flex.run(q, k, v)) / 1e12
    bench.note(f"attention {VIDEO.name}, flex", rate, "TFLOP/s", f"the first call took {first:.1f} s")


def decode(bench: Bench) -> None:
    """The autoencoder alone, untiled: decoding and encoding of 480×720, decoding of 768×1360 and in tiles."""
    spec = bench.spec("5b")
    vae = bench.drawn(VAE, spec.vae)
    weights = sum(p.nbytes for p in vae.parameters())
    for size, here in bench.sizes(VIDEO, LARGE_VIDEO):
        z = bench.noise(1, 16, *here.latents(spec))
        for name, work in (("", vae.decode), (", whole", partial(vae.decode, coding="whole"))):
            title = f"decode {size.name}{name}"
            with bench.trying(title):
                bench.note_peak(f"{title}: peak", lambda z=z, work=work: work(z), weights)
                bench.note(title, bench.seconds(lambda z=z, work=work: work(z), runs=2), "s")
            if size is LARGE_VIDEO:
                break
    here = bench.size(VIDEO)
    pixels = bench.noise(1, 3, here.frames, here.height, here.width)
    with bench.trying(f"encode {VIDEO.name}"):
        bench.note_peak(f"encode {VIDEO.name}: peak", lambda: vae.encode(pixels), weights)
        bench.note(f"encode {VIDEO.name}", bench.seconds(lambda: vae.encode(pixels).mode(), runs=2), "s")


def convolutions(bench: Bench) -> None:
    """Causal 3×3×3 convolutions of the decoder's widths, channels first and last."""
    shapes = (
        ((1, 16, 4, 16, 16),)
        if bench.small
        else ((1, 128, 10, 480, 720), (1, 256, 10, 240, 360), (1, 512, 4, 60, 90))
    )
    for shape in shapes:
        x, weight = bench.noise(*shape), bench.noise(shape[1], shape[1], 3, 3, 3)
        flops = 2 * weight.numel() * (shape[2] - 2) * shape[3] * shape[4]
        for name, form in (("", torch.contiguous_format), (", channels last", torch.channels_last_3d)):
            with bench.trying(f"convolution 3×3×3, {shape[1]} channels{name}"):
                y, w = (t.to(memory_format=form) for t in (x, weight))
                took = bench.seconds(lambda y=y, w=w: F.conv3d(y, w, padding=(0, 1, 1)))
                bench.note(f"convolution 3×3×3, {shape[1]} channels{name}", flops / took / 1e12, "TFLOP/s")


def _guided(bench: Bench, network: Transformer, spec: ModelSpec, size: Size) -> Callable[[int], object]:
    """A function that makes so many guided steps."""
    t, h, w = size.latents(spec)
    text = bench.noise(2, spec.text_tokens, spec.transformer.text_embed_dim)
    x, path = bench.noise(1, spec.transformer.out_channels, t, h, w), Schedule(spec.schedule).path(50)
    denoise = guided(lambda y, time: network(y.to(bench.dtype), text, time), Constant(scale=6.0).build())
    return lambda steps: ddim(denoise, x, path[:steps])


WAYS: dict[str, Callable[[Transformer, ClipTokens], Any] | None] = {
    "": None,
    ", compiled": lambda network, clip: compiled(network, 2, clip),
    ", CUDA graph": lambda network, clip: graph_replay(network),
    ", Triton": lambda network, clip: fused(network, FORMS),
}
"""How the blocks of a step run: what a figure's name ends in -> what they run within."""


def _note_step(bench: Bench, name: str, size: Size, way: str = "", arm: str = "") -> None:
    """Measure and keep the seconds of one guided step, modulations tabled, by the fastest attention kernel."""
    here, spec = bench.size(size), bench.spec(name)
    title = f"step {name} {size.name}{arm}{way}"
    with bench.trying(title):
        network = bench.drawn(Transformer, split(spec.transformer) if arm else spec.transformer)
        times = [step.t for step in Schedule(spec.schedule).path(50)]
        with ExitStack() as stack:
            attn = stack.enter_context(using_kernel(network, "fastest"))
            stack.enter_context(tabulated(network, times))
            if WAYS[way] is not None and (bench.cuda or way != ", compiled"):
                stack.enter_context(WAYS[way](network, here.clip(spec)))
            run = _guided(bench, network, spec, here)
            first = bench.timed(partial(run, 1))
            took = median(bench.timed(partial(run, 1)) for _ in range(bench.repeats))
            share = share_of(floor(bench, spec, size, here) / took, "the roofline, ") if not arm else ""
            note = f"{share}first {first:.1f} s, {', '.join(sorted(attn.used)) or 'its own'} attention"
            bench.note(title, took, "s", note)
            bench.note_peak(f"{title}: peak", partial(run, 1), sum(p.nbytes for p in network.parameters()))


def floor(bench: Bench, spec: ModelSpec, size: Size, here: Size) -> float:
    """Seconds that the products of a guided step take at the rates of matrices and of attention of this size."""
    tokens, width, layers = here.clip(spec).tokens, spec.transformer.width, spec.transformer.num_layers
    linear, scores = 2 * layers * 24 * width**2 * tokens, 2 * layers * 4 * width * tokens**2
    return linear / bench.rate("matrix product") + scores / bench.rate(f"attention {size.name}, best")


def share_of(share: float, what: str) -> str:
    """``80% of the roofline, ``; nothing where the rates were not measured."""
    return f"{share:.0%} of {what}" if math.isfinite(share) else ""


def _note_video(bench: Bench, name: str, size: Size) -> None:
    """Carry a video on from its step and its decoding: 50 steps; text encoder and pixels to the host left out."""
    step, pixels = bench.records.value(f"step {name} {size.name}"), bench.records.value(f"decode {size.name}")
    if step is None or pixels is None:
        return
    best = min(bench.records.value(f"step {name} {size.name}{way}") or step for way in WAYS)
    note = f"50 eager steps and the decoding; {50 * best + pixels:.3g} s with the fastest way measured"
    bench.note(f"video {name} {size.name}", 50 * step + pixels, "s", note)


def step_eager(bench: Bench) -> None:
    """One guided step of the 5B at 480×720."""
    _note_step(bench, "5b", VIDEO)
    _note_video(bench, "5b", VIDEO)


def step_compiled(bench: Bench) -> None:
    """The same, its blocks compiled."""
    _note_step(bench, "5b", VIDEO, ", compiled")
    _note_video(bench, "5b", VIDEO)


def step_triton(bench: Bench) -> None:
    """The same by the fused Triton kernels; without Triton, or off a GPU, it is skipped by name."""
    if not may_run(bench.device):
        bench.records.add("skipped", part=bench.running, why="fused kernels need Triton and a GPU")
        return
    faster = faster_forms(bench.spec("5b").transformer, bench.device, bench.dtype)
    bench.note("fused kernels that are faster", len(faster), f"of {len(FORMS)}", ", ".join(sorted(faster)))
    _note_step(bench, "5b", VIDEO, ", Triton")
    _note_video(bench, "5b", VIDEO)


def step_large(bench: Bench) -> None:
    """One guided step of the 5B at 768×1360, eager and compiled."""
    _note_step(bench, "5b", LARGE_VIDEO)
    _note_video(bench, "5b", LARGE_VIDEO)


def step_2b(bench: Bench) -> None:
    """One guided step of the 2B at 480×720 and 768×1360, the first compiled too."""
    for size in (VIDEO, LARGE_VIDEO):
        _note_step(bench, "2b", size)
        _note_video(bench, "2b", size)
    _note_step(bench, "2b", VIDEO, ", compiled")
    _note_video(bench, "2b", VIDEO)


def step_small(bench: Bench) -> None:
    """One guided step of the 5B at 256×384."""
    _note_step(bench, "5b", SMALL_VIDEO)
    _note_step(bench, "5b", SMALL_VIDEO, ", CUDA graph")


def step_split(bench: Bench) -> None:
    """Table 8's other column: 2D + 1D attention at the three sizes."""
    for size in SIZES:
        _note_step(bench, "5b", size, arm=", 2D + 1D")


def _memory(bench: Bench, residence: str) -> None:
    """Peak of a whole generation of the 5B, and the seconds of a step by the difference of 6 and 2 steps."""
    here, spec = bench.size(VIDEO), bench.spec("5b")
    networks = bench.drawn(Transformer, spec.transformer), bench.drawn(VAE, spec.vae)
    if residence != "resident":
        for network in networks:
            network.cpu()
        bench.free()
    model = CogVideoX.assemble(*networks, None, Schedule(spec.schedule), name="5b")
    offload(model, bench.device, residence)
    text = {
        f"{side}_embedding": torch.randn(1, spec.text_tokens, spec.transformer.text_embed_dim)
        for side in ("prompt", "negative")
    }
    size = {"frames": here.frames, "height": here.height, "width": here.width}

    def run(steps: int) -> None:
        options = GenerateOptions(steps=steps, seed=0, guidance=6.0, check_numerics=False, **size)
        with suppress(NumericsError):  # of random weights, at the end, when all is done
            generate(model, options, **text)

    name = f"memory 5b {VIDEO.name}, {residence}"
    allocated, reserved = bench.peak(lambda: run(2))
    step = (bench.timed(lambda: run(6)) - bench.timed(lambda: run(2))) / 4
    resident = (
        step if residence == "resident" else bench.records.value(f"memory 5b {VIDEO.name}, resident: step")
    )
    bench.note(f"{name}: step", step, "s", "by the difference of 6 and 2 steps")
    ratio = f", a step {step / resident:.2f} of resident's time" if resident else ""
    bench.note(name, allocated / 1e9, "GB", f"{reserved / 1e9:.1f} GB taken from the device{ratio}")


def memory_resident(bench: Bench) -> None:
    """All weights on the device but the text encoder's."""
    _memory(bench, "resident")


def memory_phases(bench: Bench) -> None:
    """One network on the device at a time."""
    _memory(bench, "phases")


def memory_stream(bench: Bench) -> None:
    """Block by block."""
    _memory(bench, "stream")


def text(bench: Bench) -> None:
    """The text encoder at T5-XXL's size: a prompt and its negative of 226 tokens."""
    spec = bench.spec("5b")
    known = {
        name: value for name, value in (spec.text_settings or {}).items() if name in T5Config.model_fields
    }
    network = bench.drawn(T5Encoder, T5Config(**known))
    tokens = torch.randint(2, 100, (2, spec.text_tokens), device=bench.device)
    bench.note("text encoder, 2 prompts", bench.seconds(lambda: network(tokens)), "s")
    weights = sum(p.nbytes for p in network.parameters())
    bench.note_peak(
        "text encoder: peak", lambda: network(tokens), weights, f", weights {weights / 1e9:.2f} GB"
    )


def low_bits(bench: Bench) -> None:
    """Weights of the 5B in one byte each, and products in 8 bits: seconds of a step, and what the rounding changes."""
    if not has_torchao():
        bench.records.add("skipped", part=bench.running, why="torchao is not installed")
        return
    here, spec = bench.size(VIDEO), bench.spec("5b")
    forms: tuple[tuple[Storage, Products], ...] = (
        ("int8", "full"),
        ("fp8", "full"),
        ("int8", "int8"),
        ("fp8", "fp8"),
    )
    for storage, products in forms:
        name = f"step 5b {VIDEO.name}, {storage} {'weights' if products == 'full' else 'products'}"
        with bench.trying(name):
            network = bench.drawn(Transformer, spec.transformer)
            run = _guided(bench, network, spec, here)
            expected = run(1)
            vae = bench.drawn(VAE, spec.vae)
            lower(
                CogVideoX.assemble(network, vae, None, Schedule(spec.schedule), name="5b"),
                storage,
                bench.device,
                products,
            )
            unlike = float((run(1) - expected).float().norm() / expected.float().norm())
            bench.note(
                name,
                bench.seconds(partial(run, 1)),
                "s",
                f"{unlike:.1e} off",
            )


def video_whole(bench: Bench) -> None:
    """A whole video of the 5B as `generate --compile` makes it: 50 steps, decoding, pixels on the host; no text."""
    here, spec = bench.size(VIDEO), bench.spec("5b")
    networks = bench.drawn(Transformer, spec.transformer), bench.drawn(VAE, spec.vae)
    model = CogVideoX.assemble(*networks, None, Schedule(spec.schedule), name="5b")
    shape = (1, spec.text_tokens, spec.transformer.text_embed_dim)
    given = {"prompt_embedding": torch.randn(shape), "negative_embedding": torch.randn(shape)}
    size = {"frames": here.frames, "height": here.height, "width": here.width}

    def run(steps: int) -> None:
        options = GenerateOptions(
            steps=steps, seed=0, guidance=6.0, compile=bench.cuda, check_numerics=False, **size
        )
        with suppress(NumericsError):  # of random weights, at the end, when all is done
            generate(model, options, **given)

    for steps in (1, 2 if bench.small else 50):
        took = bench.timed(partial(run, steps))
    bench.note(f"video 5b {VIDEO.name}, whole", took, "s", f"{steps} steps, compiled, after a warm-up")


@dataclass
class Training:
    """A network in training on random clips of ``shapes`` (latent t, h, w), as ``cogvideox train`` steps it: float32
    weights under bf16 autocast, clipping, AdamW, averaged weights."""

    bench: Bench
    spec: ModelSpec
    shapes: Sequence[tuple[int, int, int]]
    layers: int | None = None
    ema: bool = True
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        bench, spec = self.bench, self.spec
        config = spec.transformer.changed(num_layers=self.layers or spec.transformer.num_layers)
        self.network = bench.drawn(Transformer, config, torch.float32).requires_grad_(True).train()
        settings = {"transformer": config, "schedule": spec.schedule, "device": bench.device.type} | dict(
            self.settings or {}
        )
        task = DiffusionTraining(**settings)
        self.attn_fn = attention_fn(task)
        prepare_network(self.network, task, self.attn_fn, 0)
        self.optimizers = build_optimizers(self.network, OptimConfig(lr=1e-5))
        self.average = EMA(self.network, 0.999) if self.ema else None
        text = (spec.text_tokens, config.text_embed_dim)
        self.samples = [
            DiffusionSample(*(torch.randn(16, *shape) for _ in range(2)), torch.randn(text))
            for shape in self.shapes
        ]
        self.schedule, self.times = Schedule(spec.schedule), torch.full((len(self.shapes),), 500)

    def step(self) -> None:
        """Forward, back, clipping, optimiser, average."""
        kind, cuda = self.bench.device.type, self.bench.cuda
        with torch.enable_grad():
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=cuda):
                if isinstance(self.attn_fn, Fastest) and self.attn_fn.fixed is None:
                    fix_kernel(self.attn_fn, self.network, self.samples)
                loss = velocity_errors(self.network, self.schedule, self.samples, self.times).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.network.parameters() if p.grad is not None], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()


def _layers_carried_on(bench: Bench, title: str, **settings: Any) -> None:
    """Seconds and share of the matrix rate of a step of the 5B at 480×720, carried on from two depths."""
    spec, here = bench.spec("5b"), bench.size(VIDEO)
    few, many = (1, 2) if bench.small else (2, 4)
    with bench.trying(title):
        took, peak = {}, {}
        for layers in (few, many):
            training = Training(bench, spec, [here.latents(spec)], layers, settings=settings)
            took[layers] = bench.seconds(training.step, runs=2)
            peak[layers] = bench.peak(training.step)[0]
            del training
            bench.free()
        rest = spec.transformer.num_layers - few
        whole = took[few] + rest * (took[many] - took[few]) / (many - few)
        memory = peak[few] + rest * (peak[many] - peak[few]) / (many - few)
        tokens, width = here.clip(spec).tokens, spec.transformer.width
        flops = 3 * spec.transformer.num_layers * (24 * width**2 * tokens + 4 * width * tokens**2)
        share = share_of(
            flops / whole / bench.rate("matrix product") if whole > 0 else math.nan, "the matrix rate, "
        )
        note = f"{share}{memory / 1e9:.0f} GB, carried on from {few} and {many} layers"
        bench.note(title, whole, "s a clip", note)


def training_5b(bench: Bench) -> None:
    """A step of the 5B at 480×720, with and without recomputation, carried on from two depths."""
    _layers_carried_on(bench, f"training 5b {VIDEO.name}")
    _layers_carried_on(bench, f"training 5b {VIDEO.name}, recompute", recompute=True)


def training_compiled(bench: Bench) -> None:
    """The same compiled, and compiled with recomputation."""
    if bench.cuda:
        _layers_carried_on(bench, f"training 5b {VIDEO.name}, compiled", compile=True)
        _layers_carried_on(
            bench, f"training 5b {VIDEO.name}, compiled, recompute", compile=True, recompute=True
        )


def training_whole(bench: Bench) -> None:
    """A step of all layers of the 5B with recomputation, without averaged weights; and of an adapter."""
    spec, here = bench.spec("5b"), bench.size(VIDEO)
    adapter = {"start": "5b", "transformer": None, "schedule": None, "lora": LoraTuning(), "recompute": True}
    for title, ema, settings in (("all weights", False, {"recompute": True}), ("adapter", True, adapter)):
        name = f"training 5b {VIDEO.name}, all layers, {title}"
        with bench.trying(name):
            training = Training(bench, spec, [here.latents(spec)], ema=ema, settings=settings)
            took = bench.seconds(training.step, runs=1)
            bench.note(name, took, "s a clip", f"{bench.peak(training.step)[0] / 1e9:.1f} GB")
            del training


def training_packed(bench: Bench) -> None:
    """Clips of mixed sizes in one packed sequence, beside the same one at a time: two layers of the 5B."""
    spec = bench.spec("5b")
    shapes = (
        [(3, 4, 6), (1, 4, 6), (2, 4, 4)]
        if bench.small
        else [(13, 60, 90), (1, 60, 90), (7, 32, 48), (13, 32, 48)]
    )
    with bench.trying("training packed"):
        packed = Training(bench, spec, shapes, 2)
        together = bench.seconds(packed.step, runs=2)
        samples, apart = packed.samples, 0.0
        for sample in samples:
            packed.samples, packed.times = [sample], torch.tensor([500])
            apart += bench.seconds(packed.step, runs=2)
        bench.note(
            "training packed", together, "s", f"{apart / together:.2f} times as fast as one clip a step"
        )


WORK: dict[str, Callable[[Bench], None]] = {
    "smoke": smoke,
    "products": products,
    "attention": attention,
    "decode": decode,
    "convolutions": convolutions,
    "step-5b-eager": step_eager,
    "step-5b-compiled": step_compiled,
    "step-5b-triton": step_triton,
    "memory-resident": memory_resident,
    "memory-phases": memory_phases,
    "memory-stream": memory_stream,
    "step-5b-large": step_large,
    "step-2b": step_2b,
    "training-5b": training_5b,
    "training-5b-whole": training_whole,
    "smoke-compiled": smoke_compiled,
    "training-5b-compiled": training_compiled,
    "step-5b-small": step_small,
    "step-5b-split": step_split,
    "text": text,
    "attention-flex": attention_flex,
    "training-packed": training_packed,
    "weights-in-8-bits": low_bits,
    "video-5b-whole": video_whole,
}
"""Name of each part of ``gpu.PARTS`` -> what it does."""


def profile(bench: Bench, path: Path) -> None:
    """Write the kernels of a step (eager, compiled), of decoding and of a training step to ``path``, longest first."""
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as recording

    spec, here = bench.spec("5b"), bench.size(VIDEO)
    shallow = replace(spec, transformer_settings={**spec.transformer_settings, "num_layers": 2})
    bench.running = "profile"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{facts(bench)}\n", encoding="utf-8")

    def kernels_of(title: str, work: Callable[[], object]) -> None:
        work()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.cuda
        with recording(activities=activities) as log, record_function(title):
            took = bench.timed(work)
        order = "self_cuda_time_total" if bench.cuda else "self_cpu_time_total"
        table = log.key_averages().table(sort_by=order, row_limit=50, max_name_column_width=90)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n== {title}: {took:.4f} s while recorded\n{table}\n")

    def step(way: str) -> None:
        network = bench.drawn(Transformer, shallow.transformer)
        times = [each.t for each in Schedule(spec.schedule).path(50)]
        with ExitStack() as stack:
            stack.enter_context(using_kernel(network, "fastest"))
            stack.enter_context(tabulated(network, times))
            if way and bench.cuda:
                stack.enter_context(compiled(network, 2, here.clip(spec)))
            run = _guided(bench, network, shallow, here)
            run(1)
            kernels_of(f"step 5b {VIDEO.name}, 2 layers{way}", partial(run, 1))

    with torch.no_grad():
        for way in ("", ", compiled"):
            with bench.trying(f"profile of a step{way}"):
                step(way)
        with bench.trying("profile of decoding"):
            vae, z = bench.drawn(VAE, spec.vae), bench.noise(1, 16, *here.latents(spec))
            kernels_of(f"decode {VIDEO.name}", lambda: vae.decode(z))
        with bench.trying("profile of training"):
            training = Training(bench, spec, [here.latents(spec)], 2)
            kernels_of(f"training step 5b {VIDEO.name}, 2 layers", training.step)
