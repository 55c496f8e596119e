"""What the paper measured on its GPUs (Tables 7 and 8), with random weights on yours, and what the card allows.

python benchmarks/gpu.py                     minutes on an NVIDIA GPU; writes its section of docs/records/performance.md
python benchmarks/gpu.py --only step         some of kernels, step, video, decode, memory, training
python benchmarks/gpu.py --small             seconds on any CPU at a tiny size; prints only

Times are medians after a warm-up, between two waits for the device. A video is extrapolated from a few steps unless
``--whole``. The roofline share is the time that the counted products would take at the rates measured here, over the
time they took.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F

from cogvideox.diffusion import Constant, Schedule, ddim, guided
from cogvideox.generation import GenerateOptions, generate
from cogvideox.memory import offload
from cogvideox.model import CogVideoX
from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec
from cogvideox.transformer import TokenGrid, Transformer, split
from cogvideox.transformer.compiled import compiled, graph_replay
from cogvideox.transformer.kernels import KERNELS, using_kernel
from cogvideox.transformer.layout import ClipTokens
from cogvideox.transformer.modulation import tabulated
from cogvideox.vae import VAE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "records" / "performance.md"
UNKNOWN = "not yet measured on a GPU"
BEGIN, END = "<!-- gpu: written by make bench-gpu -->", "<!-- end of gpu -->"


@dataclass(frozen=True)
class Size:
    """A video: frames, height and width in pixels."""

    name: str
    frames: int
    height: int
    width: int

    def latents(self, row: ModelSpec) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        factor = row.vae.spatial_compression_ratio
        return (self.frames - 1) // 4 + 1, self.height // factor, self.width // factor

    def clip(self, row: ModelSpec) -> ClipTokens:
        """Its tokens."""
        t, h, w = self.latents(row)
        patch = row.transformer.patch_size
        return ClipTokens(row.text_tokens, TokenGrid(t, h // patch, w // patch))


SMALL_VIDEO = Size("256×384, 6 s", 49, 256, 384)
VIDEO = Size("480×720, 6 s", 49, 480, 720)
LARGE_VIDEO = Size("768×1360, 5 s", 41, 768, 1360)
AIMS = {  # seconds, bytes or shares aimed at; the paper's figure on H800
    "step 5b 256×384, 6 s": ("0.21 s", "0.41 s"),
    "step 5b 480×720, 6 s": ("1.20 s", "2.11 s"),
    "step 5b 768×1360, 5 s": ("5.8 s", "9.60 s"),
    "step 5b 256×384, 6 s, 2D + 1D": ("", "0.38 s"),
    "step 5b 480×720, 6 s, 2D + 1D": ("", "1.26 s"),
    "step 5b 768×1360, 5 s, 2D + 1D": ("", "4.17 s"),
    "video 5b 480×720, 6 s": ("62 s", "113 s"),
    "video 2b 480×720, 6 s": ("24.5 s", "49 s"),
    "video 5b 768×1360, 5 s": ("295 s", "500 s"),
    "video 2b 768×1360, 5 s": ("", "220 s"),
    "decode 480×720, 6 s": ("1.2 s", ""),
    "decode 480×720, 6 s: peak": ("6.5 GB", ""),
    "memory 5b 480×720, 6 s, resident": ("18 GB, text encoder aside", "26 GB"),
    "memory 5b 480×720, 6 s, phases": ("13 GB", ""),
    "memory 5b 480×720, 6 s, stream": ("4.5 GB", ""),
    "training 5b 480×720, 6 s": ("45 % of peak", ""),
}


@dataclass
class Bench:
    """One machine, and what was found on it: (name, value) in order."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    small: bool
    compile: bool
    whole: bool
    found: dict[str, str]
    gemm: float = float("nan")
    attention: float = float("nan")

    def seconds(self, work: Callable[[], object]) -> float:
        """Median of some runs after one."""
        work()
        times = []
        for _ in range(self.repeats):
            self.wait()
            start = perf_counter()
            work()
            self.wait()
            times.append(perf_counter() - start)
        return median(times)

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, work: Callable[[], object]) -> int | None:
        """Bytes allocated at most while ``work`` runs; None without a GPU."""
        if self.device.type != "cuda":
            work()
            return None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device)

    def note(self, name: str, value: str) -> None:
        """Keep and show a result."""
        self.found[name] = value
        print(f"{name}: {value}", file=sys.stderr, flush=True)

    def row(self, name: str) -> ModelSpec:
        """A preset; small ones have two narrow layers and a narrow autoencoder."""
        row = get_preset(name)
        if not self.small:
            return row
        narrow = {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 16, "time_embed_dim": 32}
        slim = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
        return replace(
            row,
            transformer_settings={**row.transformer_settings, **narrow},
            vae_settings={**row.vae_settings, **slim},
        )

    def size(self, size: Size) -> Size:
        """The size, or a tiny one in its place."""
        return replace(size, frames=9, height=32, width=48) if self.small else size

    def transformer(self, row: ModelSpec, **changes: object) -> Transformer:
        """Random weights; nothing is loaded."""
        config = row.transformer.changed(**changes)
        return self.drawn(Transformer, config)

    def drawn(self, kind: type, config: object) -> torch.nn.Module:
        """A network with small random weights, made on the device."""
        with torch.device("meta"):
            network = kind(config).eval().to(self.dtype)
        network.to_empty(device=self.device)
        for weight in network.parameters():
            weight.data.normal_(0, 0.02)
        return network.requires_grad_(False)

    def noise(self, *shape: int) -> torch.Tensor:
        """Standard normal."""
        return torch.randn(shape, device=self.device, dtype=self.dtype)


def kernels(bench: Bench) -> None:
    """Rates of the products alone: matrices, attention at head width 64 by every kernel, a causal convolution."""
    side = 256 if bench.small else 8192
    a, b = bench.noise(side, side), bench.noise(side, side)
    bench.gemm = 2 * side**3 / bench.seconds(lambda: a @ b)
    bench.note("matrix product", _rate(bench.gemm))
    copy = bench.seconds(lambda: a.clone()) if bench.small else bench.seconds(lambda: a.repeat(16, 1))
    moved = 2 * a.nbytes if bench.small else 17 * a.nbytes
    bench.note("copy", f"{moved / copy / 1e12:.3g} TB/s read and written")
    heads = 2 if bench.small else 48
    for size in (SMALL_VIDEO, VIDEO, LARGE_VIDEO):
        tokens = bench.size(size).clip(bench.row("5b")).tokens
        q, k, v = (bench.noise(2, heads, tokens, 64) for _ in range(3))
        best = 0.0
        for kernel in KERNELS:
            if not kernel.usable(q):
                continue
            try:
                rate = 4 * 2 * heads * tokens**2 * 64 / bench.seconds(partial(kernel.run, q, k, v))
            except (
                RuntimeError,
                ImportError,
            ) as error:  # a kernel of another library on a card it may not know
                bench.note(
                    f"attention {size.name}, {kernel.name}", f"fails: {str(error).splitlines()[0][:80]}"
                )
                continue
            bench.note(f"attention {size.name}, {kernel.name}", _rate(rate))
            best = best if kernel.approximate else max(best, rate)
        bench.attention = best
        if bench.small:
            break
    x = bench.noise(1, 16, 4, 16, 16) if bench.small else bench.noise(1, 128, 10, 480, 720)
    weight = bench.noise(x.shape[1], x.shape[1], 3, 3, 3)
    flops = 2 * weight.numel() * (x.shape[2] - 2) * x.shape[3] * x.shape[4]
    for name, form in (("", torch.contiguous_format), (", channels last", torch.channels_last_3d)):
        y, w = (t.to(memory_format=form) for t in (x, weight))
        rate = flops / bench.seconds(lambda y=y, w=w: F.conv3d(y, w, padding=(0, 1, 1)))
        bench.note(f"convolution 3×3×3, {x.shape[1]} channels{name}", _rate(rate))


def _guided(bench: Bench, network: Transformer, row: ModelSpec, size: Size) -> Callable[[int], object]:
    """A function that makes so many guided steps."""
    t, h, w = size.latents(row)
    text = bench.noise(2, row.text_tokens, row.transformer.text_embed_dim)
    x, path = bench.noise(1, row.transformer.out_channels, t, h, w), Schedule(row.schedule).path(50)
    denoise = guided(lambda y, time: network(y.to(bench.dtype), text, time), Constant(scale=6.0).build())
    return lambda steps: ddim(denoise, x, path[:steps])


def step_seconds(bench: Bench, name: str, size: Size, attention: str = "full", steps: int = 1) -> float:
    """Seconds of one guided step, modulations tabled, the fastest kernel, compiled if asked for."""
    row = bench.row(name)
    config = split(row.transformer) if attention == "split" else row.transformer
    network = bench.drawn(Transformer, config)
    times = [step.t for step in Schedule(row.schedule).path(50)]
    with using_kernel(network, "fastest"), tabulated(network, times):
        run = _guided(bench, network, row, size)
        if not bench.compile:
            return bench.seconds(lambda: run(steps)) / steps
        with compiled(network, 2, size.clip(row)), graph_replay(network):
            return bench.seconds(lambda: run(steps)) / steps


def floor(bench: Bench, row: ModelSpec, size: Size) -> float:
    """Seconds that the products of a guided step take at the rates measured here."""
    tokens, width, layers = size.clip(row).tokens, row.transformer.width, row.transformer.num_layers
    linear, attention = 2 * layers * 24 * width**2 * tokens, 2 * layers * 4 * width * tokens**2
    return linear / bench.gemm + attention / bench.attention


def step(bench: Bench) -> None:
    """Table 8: one step of the 5B at three sizes, full and 2D + 1D attention."""
    row = bench.row("5b")
    for size in (SMALL_VIDEO, VIDEO, LARGE_VIDEO):
        here = bench.size(size)
        for attention, words in (("full", ""), ("split", ", 2D + 1D")):
            took = step_seconds(bench, "5b", here, attention)
            share = f", {floor(bench, row, here) / took:.0%} of the roofline" if attention == "full" else ""
            bench.note(f"step 5b {size.name}{words}", f"{took:.3g} s{share}")
            _forget()
        if bench.small:
            break


def video(bench: Bench) -> None:
    """Table 7: 50 guided steps and the decoding, text encoder aside."""
    for name in ("5b", "2b"):
        for size in (VIDEO, LARGE_VIDEO):
            here, row = bench.size(size), bench.row(name)
            steps = 50 if bench.whole else 2
            once = step_seconds(bench, name, here, steps=steps)
            took = 50 * once + _decode_seconds(bench, here)
            how = "whole" if bench.whole else "from 2 steps"
            share = floor(bench, row, here) / once
            bench.note(
                f"video {name} {size.name}", f"{took:.3g} s ({how}), steps {share:.0%} of the roofline"
            )
            _forget()
        if bench.small:
            break


def _decode_seconds(bench: Bench, size: Size) -> float:
    row = bench.row("5b")
    vae, z = bench.drawn(VAE, row.vae), bench.noise(1, 16, *size.latents(row))
    return bench.seconds(lambda: vae.decode(z))


def decode(bench: Bench) -> None:
    """The autoencoder alone, untiled."""
    size = bench.size(VIDEO)
    row = bench.row("5b")
    bench.note(f"decode {VIDEO.name}", f"{_decode_seconds(bench, size):.3g} s")
    vae, z = bench.drawn(VAE, row.vae), bench.noise(1, 16, *size.latents(row))
    weights = sum(p.nbytes for p in vae.parameters())
    found = bench.peak(lambda: vae.decode(z))
    bench.note(f"decode {VIDEO.name}: peak", _gigabytes(found, weights))
    pixels = bench.noise(1, 3, size.frames, size.height, size.width)
    bench.note(f"encode {VIDEO.name}", f"{bench.seconds(lambda: vae.encode(pixels).mode()):.3g} s")
    bench.note(f"encode {VIDEO.name}: peak", _gigabytes(bench.peak(lambda: vae.encode(pixels)), weights))


def memory(bench: Bench) -> None:
    """Peak of a whole generation under each policy, two steps, and the time beside resident weights."""
    size, row = bench.size(VIDEO), bench.row("5b")
    text = {name: torch.randn(1, row.text_tokens, row.transformer.text_embed_dim) for name in ("p", "n")}
    options = GenerateOptions(steps=2, frames=size.frames, height=size.height, width=size.width)
    resident = None
    for place in ("resident", "phases", "stream"):
        home = replace(bench, device=torch.device("cpu"))
        parts = home.drawn(Transformer, row.transformer), home.drawn(VAE, row.vae)
        model = CogVideoX.assemble(*parts, None, Schedule(row.schedule), name="5b")
        offload(model, bench.device, place)

        def run(model: CogVideoX = model) -> float:
            given = {"prompt_embedding": text["p"], "negative_embedding": text["n"]}
            return generate(model, options, **given).manifest["run"]["stages"]["denoise"]

        run()
        found, took = bench.peak(run), run()
        resident = resident or took
        bench.note(
            f"memory 5b {VIDEO.name}, {place}",
            f"{_gigabytes(found)}, steps {took / resident:.2f} of resident's time",
        )
        del model, parts
        _forget()


def training(bench: Bench) -> None:
    """A training step of the 5B in bf16 with AdamW, carried on from two depths; share of the matrix rate."""
    row, size = bench.row("5b"), bench.size(VIDEO)
    few, many = (1, 2) if bench.small else (2, 4)
    seconds = {layers: _training_step(bench, row, size, layers) for layers in (few, many)}
    layer = (seconds[many] - seconds[few]) / (many - few)
    took = seconds[few] + (row.transformer.num_layers - few) * layer
    tokens, width = size.clip(row).tokens, row.transformer.width
    flops = 3 * row.transformer.num_layers * (24 * width**2 * tokens + 4 * width * tokens**2)
    share = flops / took / bench.gemm
    bench.note(
        f"training 5b {VIDEO.name}", f"{took:.3g} s a sample, {share:.0%} of the matrix rate measured here"
    )


def _training_step(bench: Bench, row: ModelSpec, size: Size, layers: int) -> float:
    """Seconds of forward, backward and optimizer for one clip."""
    network = bench.transformer(row, num_layers=layers).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=bench.device.type == "cuda")
    t, h, w = size.latents(row)
    x, target = bench.noise(1, 16, t, h, w), bench.noise(1, 16, t, h, w)
    text = bench.noise(1, row.text_tokens, row.transformer.text_embed_dim)
    time = torch.tensor([500], device=bench.device)

    def work() -> None:
        with torch.enable_grad():
            (network(x, text, time) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with using_kernel(network, "fastest"):
        found = bench.seconds(work)
    _forget()
    return found


MEASURES: dict[str, Callable[[Bench], None]] = {
    "kernels": kernels,
    "step": step,
    "video": video,
    "decode": decode,
    "memory": memory,
    "training": training,
}


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s"


def _gigabytes(found: int | None, without: int = 0) -> str:
    return "no GPU to ask" if found is None else f"{(found - without) / 1e9:.2f} GB"


def section(found: dict[str, str], machine: str) -> str:
    """The part of the page: every aim with what was found, then whatever else was."""
    rows = [
        f"| {name} | {found.get(name, UNKNOWN)} | {aim} | {paper} |" for name, (aim, paper) in AIMS.items()
    ]
    rows += [f"| {name} | {value} | | |" for name, value in found.items() if name not in AIMS]
    if not any(name.startswith("attention") for name in found):
        rows += [f"| {name} | {UNKNOWN} | | |" for name in ("attention kernels", "convolution 3×3×3")]
    line = "\n"
    return f"""{BEGIN}

## On a GPU

The sizes of the paper's Tables 7 and 8 with random weights, bf16, guidance pair batched; `make bench-gpu` runs
it on any NVIDIA GPU and writes this section. *Aim* is for one H200, *paper* its figure on an H800. {machine}

| work | found | aim | paper |
|---|---|---|---|
{line.join(rows)}

{END}"""


def put_into(page: str, part: str) -> str:
    """The page with its GPU section replaced, or added at the end."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: part, page)
    return page.rstrip() + "\n\n" + part + "\n"


def taken_from(page: str) -> str:
    """The GPU section of a page as it is, or the one that says that nothing is known."""
    found = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), page, re.DOTALL)
    return found.group(0) if found else section({}, "")


def main() -> None:
    """Run what was asked for; write the page only from a whole run on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MEASURES, help="a part; repeatable")
    parser.add_argument("--small", action="store_true", help="tiny size, any device")
    parser.add_argument("--whole", action="store_true", help="all 50 steps of every video")
    parser.add_argument("--compile", action="store_true", help="blocks compiled")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not args.small:
        parser.error("no NVIDIA GPU is here; --small runs the same at a tiny size on a CPU")
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    bench = Bench(device, dtype, args.repeats, args.small, args.compile, args.whole, {})
    chosen = args.only or MEASURES
    with torch.no_grad():
        for part in dict.fromkeys(("kernels", *chosen)):  # the roofline needs their rates
            MEASURES[part](bench)
    name = torch.cuda.get_device_name() if cuda else platform.machine()
    machine = f"Measured on {name}, torch {version('torch')}{', compiled' if args.compile else ''}."
    if args.small:
        print(json.dumps({"machine": machine, "found": bench.found}, indent=2, ensure_ascii=False))
        return
    PAGE.write_text(
        put_into(PAGE.read_text(encoding="utf-8"), section(bench.found, machine)), encoding="utf-8"
    )
    print(PAGE)


if __name__ == "__main__":
    main()
