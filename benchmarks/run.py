"""Ours beside diffusers, in one run: time, peak memory, import time. Writes a page of tables.

python benchmarks/run.py                   a few minutes, writes docs/records/performance.md
python benchmarks/run.py --size real       at the public widths: thirteen minutes, that section of the page only
python benchmarks/run.py --size smoke      seconds, prints only
python benchmarks/run.py --only "VAE encode" --threads 1 --clock processor
                                           one row, prints only; on a machine with other work on it
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import cases
import estimates
import gpu_page
import halves
import imports
import plot
import timing
import torch
from cases import CASES, REAL, SIZES, cases_of
from traffic import count

import cogvideox
import memory

PAGE = Path(__file__).resolve().parents[1] / "docs" / "records" / "performance.md"
REAL_BEGIN, REAL_END = "<!-- real: written by make bench-real -->", "<!-- end of real -->"


def machine() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def measure(args: argparse.Namespace) -> str:
    """Run everything and return the page."""
    size = SIZES[args.size]
    rows = measure_rows(CASES, args)
    loads = imports.measure(max(args.repeats // 2, 1))
    torch_alone = loads["`import torch`"]
    programs = [
        f"| {name} | {seconds:.2f} | {seconds - torch_alone:+.2f} |" for name, seconds in loads.items()
    ]
    half = [found.row for found in halves.measure(size, args.repeats)]
    return page(args, rows, programs, half)


def measure_rows(names: Iterable[str], args: argparse.Namespace) -> list[str]:
    """Time and memory of these cases on both sides, a line each, printed as they come."""
    rows = []
    for name in names:
        took = timing.measure(cases_of(args.size)[name], SIZES[args.size], args.repeats, args.clock)
        need = {side: memory.measure(name, side, args.size, args.threads) for side in ("ours", "diffusers")}
        share = need["ours"] / max(need["diffusers"], 1)
        rows.append(
            f"| {name} | {took.ours:.3f} | {took.theirs:.3f} | **{took.ratio:.2f}** "
            f"| {need['ours']:.0f} | {need['diffusers']:.0f} | **{share:.2f}** | {took.difference:.1e} |"
        )
        print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def operators(side: cases.Side) -> int:
    """Operators of one step of the stochastic sampler, views not counted, the drawing of noise counted."""
    return -(-count(CASES["2 DPM steps"](SIZES["smoke"], side)).calls // 2)


def page(args: argparse.Namespace, rows: list[str], programs: list[str], half: list[str]) -> str:
    """The tables, with everything that must be known to read them."""
    size = SIZES[args.size]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    shapes = (
        f"VAE widths {size.channels}, {size.frames} frames of {size.height}x{size.width}; "
        f"transformer {size.heads} heads of 64, {size.depth} layers, latents {size.latents}, "
        f"{size.text_tokens} text tokens; the generation has half the heads and layers and "
        f"{size.steps} guided DDIM steps, from text embeddings to frames"
    )
    return f"""# Performance

Ours beside diffusers in one run: the same weights, inputs and number of threads, in turns; medians.
A ratio below 1 means that ours needs less; it is the median of the ratios of pairs that ran one after the other.
Written by `make bench`; do not edit by hand.
[Counts](counts.md) has what the work costs at real sizes, without a device.

| work | ours (s) | diffusers (s) | ratio | ours (MB) | diffusers (MB) | ratio | largest difference |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

![ours beside diffusers](../images/performance.svg)

{real_part()}

Memory is what the resident set grows by at its peak while the work runs, weights and libraries not counted,
each in a process of its own. The largest difference is between the two results, with random weights.

A step of the stochastic sampler makes {operators("ours")} operations, {operators("diffusers")} in diffusers.

| our own, bfloat16 weights | float32 (s) | bfloat16 here (s) | without units for it (s) | ratio to float32 |
|---|---|---|---|---|
{chr(10).join(half)}

*Without units* computes every product through float32, as on a CPU that has none; the ratio is its, with the
least and the most of the rounds.

| program | imports (s) | beyond torch (s) |
|---|---|---|
{chr(10).join(programs)}

- Size `{args.size}`: {shapes}.
- {args.repeats} repetitions, {args.threads} threads, float32, {args.clock} clock.
- {machine()}; Python {platform.python_version()}; cogvideox {cogvideox.__version__}, {versions}.
- {datetime.date.today().isoformat()}.

{gpu_page.taken_from(PAGE.read_text(encoding="utf-8") if PAGE.exists() else "")}
"""


def real_section(args: argparse.Namespace, rows: list[str], guesses: list[str]) -> str:
    """The rows at the widths of the public checkpoints, and how far estimates were from what was measured."""
    size = SIZES["real"]
    return f"""{REAL_BEGIN}

## At the widths of the public checkpoints

| work | ours (s) | diffusers (s) | ratio | ours (MB) | diffusers (MB) | ratio | largest difference |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

VAE widths {size.channels}, {size.frames} frames of {size.height}x{size.width}; a layer of 30 heads (2B) and of 48
(5B, rotary) on a guidance pair of {size.text_tokens} + 990 tokens; training: forward, backward and AdamW of one clip of
as many tokens. {args.repeats} pairs, {args.threads} threads, float32, {args.clock} clock;
{machine()}; torch {version("torch")}, diffusers
{version("diffusers")}; {datetime.date.today().isoformat()}. Written by `make bench-real`, in about thirteen minutes.

| time before the first step | estimated (s) | measured (s) | measured / estimated |
|---|---|---|---|
{chr(10).join(guesses)}

{REAL_END}"""


def real_part(page: Path = PAGE) -> str:
    """The section at real widths of a page as it is, or where it comes from."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    match = re.search(re.escape(REAL_BEGIN) + ".*?" + re.escape(REAL_END), text, re.DOTALL)
    return match.group(0) if match else f"{REAL_BEGIN}\n\nNot measured yet: `make bench-real`.\n\n{REAL_END}"


def write_real(text: str, page: Path = PAGE) -> None:
    """Put a section at real widths into a page that has one, or before the memory's explanation."""
    whole = page.read_text(encoding="utf-8")
    if REAL_BEGIN in whole:
        whole = whole.replace(real_part(page), text)
    else:
        whole = whole.replace("\nMemory is what", f"\n{text}\n\nMemory is what", 1)
    page.write_text(whole, encoding="utf-8")


def main() -> None:
    """Read the flags, measure, print, and write the page, or its section at real widths; a smoke run writes none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="mid", help="how large the work is")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="which seconds are counted")
    parser.add_argument(
        "--only", action="append", choices=CASES | REAL, help="this row, and no page; repeatable"
    )
    parser.add_argument(
        "--out", type=Path, help="the page to write (default: docs/records/performance.md, none for smoke)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        if unknown := set(args.only) - set(cases_of(args.size)):
            parser.error(f"--only {', '.join(unknown)}: no row of --size {args.size}")
        measure_rows(args.only, args)
        return
    if args.size == "real":
        rows = measure_rows(REAL, args)
        write_real(real_section(args, rows, estimates.measure(args.repeats, args.clock)), args.out or PAGE)
        print(*plot.draw(), sep="\n")
        return
    text = measure(args)
    out = args.out or (PAGE if args.size != "smoke" else None)
    if out is None:
        print(text)
    else:
        out.write_text(text, encoding="utf-8")
        print(out)
        if out == PAGE:
            print(*plot.draw(), sep="\n")


if __name__ == "__main__":
    main()
