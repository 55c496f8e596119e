"""What the work costs at real sizes, ours beside diffusers, counted on tensors without memory.

python benchmarks/count.py                 about a minute, writes docs/records/counts.md
python benchmarks/count.py --only block    one table, printed
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import plot
import torch
from cases import Side
from traffic import Traffic, count

from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "records" / "counts.md"
BF16 = torch.bfloat16
SIDES: tuple[Side, ...] = ("ours", "diffusers")


def steady(work: Callable[[], object]) -> Traffic:
    """The cost of a second run: tables of positions are made once and kept."""
    with torch.no_grad():
        work()
    return count(work)


def block(preset: ModelSpec, side: Side, frames: int, height: int, width: int, batch: int = 2) -> Traffic:
    """A layer at this size for a batch of clips (2: the guidance pair) in bf16; the peak is that of the whole network.

    Difference of four and three layers, so that what surrounds the layers cancels out; depth does not change the peak.
    """
    three, four = (steady(_transformer(preset, side, n, frames, height, width, batch)) for n in (3, 4))
    sums = ("calls", "traffic", "fused", "epilogue", "flops")
    return replace(four, **{name: getattr(four, name) - getattr(three, name) for name in sums})


def _transformer(
    preset: ModelSpec, side: Side, layers: int, frames: int, height: int, width: int, batch: int
) -> Callable[[], object]:
    config = preset.transformer.changed(num_layers=layers)
    t = -(-((frames - 1) // 4 + 1) // (config.patch_size_t or 1)) * (config.patch_size_t or 1)
    with torch.device("meta"):
        x = torch.empty(batch, config.in_channels, t, height // 8, width // 8, dtype=BF16)
        text = torch.empty(batch, preset.text_tokens, config.text_embed_dim, dtype=BF16)
        time = torch.empty(batch)
        if side == "ours":
            from cogvideox.transformer import Transformer

            network = Transformer(config).to(BF16).eval()
            return lambda: network(x, text, time)
        from diffusers import CogVideoXTransformer3DModel

        names = config.model_dump(exclude={"experts", "attention", "position_mode"}, exclude_none=True)
        known = CogVideoXTransformer3DModel.__init__.__wrapped__.__code__.co_varnames
        names = {key: value for key, value in names.items() if key in known}
        if not config.use_rotary_positional_embeddings:  # else the size of its stored table differs
            names |= {"sample_height": height // 8, "sample_width": width // 8, "sample_frames": frames}
        theirs = CogVideoXTransformer3DModel(**names).to(BF16).eval()
        tokens = t // (config.patch_size_t or 1) * (height // 16) * (width // 16)
        turn = torch.empty(tokens, config.attention_head_dim)
        rotary = (turn, turn.clone()) if config.use_rotary_positional_embeddings else None
        frames_first = x.transpose(1, 2).contiguous()
    return lambda: theirs(frames_first, text, time, image_rotary_emb=rotary, return_dict=False)


@cache
def decode(side: Side, frames: int, height: int = 480, width: int = 720) -> Traffic:
    """Latents to pixels in bf16, at the widths of the released autoencoder."""
    vae = _vae(side)
    with torch.device("meta"):
        z = torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, dtype=BF16)
    return count(lambda: vae.decode(z))


@cache
def encode(side: Side, frames: int, height: int = 480, width: int = 720) -> Traffic:
    """Pixels to the mean of their latents in bf16."""
    vae = _vae(side)
    with torch.device("meta"):
        pixels = torch.empty(1, 3, frames, height, width, dtype=BF16)
    if side == "ours":
        return count(lambda: vae.encode(pixels).mode())
    return count(lambda: vae.encode(pixels).latent_dist.mode())


@cache
def _vae(side: Side) -> torch.nn.Module:
    config = get_preset("5b").vae
    with torch.device("meta"):
        if side == "ours":
            from cogvideox.vae import VAE

            return VAE(config).to(BF16).eval()
        from diffusers import AutoencoderKLCogVideoX

        names = {key: value for key, value in config.released().items() if not key.startswith("_")}
        known = AutoencoderKLCogVideoX.__init__.__wrapped__.__code__.co_varnames
        names = {key: value for key, value in names.items() if key in known}
        return AutoencoderKLCogVideoX(**names).to(BF16).eval()


BLOCKS = {
    "5B, 49×480×720": ("5b", 49, 480, 720),
    "2B, 49×480×720": ("2b", 49, 480, 720),
    "1.5-5B, 81×768×1360": ("1.5-5b", 81, 768, 1360),
    "5B, 5 s of 768×1360 (41 frames)": ("5b", 41, 768, 1360),
}
CODINGS: dict[str, Callable[[Side], Traffic]] = {
    "decode 49×480×720": lambda side: decode(side, 49),
    "decode 97×480×720": lambda side: decode(side, 97),
    "encode 49×480×720": lambda side: encode(side, 49),
    "encode 97×480×720": lambda side: encode(side, 97),
}
HEAD = """| work | side | calls | traffic (GB) | fused (GB) | and epilogues (GB) | TFLOP | peak (GB) |
|---|---|---|---|---|---|---|---|"""


def _row(name: str, side: Side, found: Traffic) -> str:
    peak = f"{found.peak / 1e9:.2f}"
    return (
        f"| {name} | {side} | {found.calls:,} | {found.traffic / 1e9:,.1f} | {found.fused / 1e9:,.1f} "
        f"| {found.epilogue / 1e9:,.1f} "
        f"| {found.flops / 1e12:,.1f} | {peak} |"
    )


def blocks() -> list[str]:
    """Rows of one transformer layer at real sizes."""
    rows = []
    for name, (preset, *size) in BLOCKS.items():
        rows += [_row(name, side, block(get_preset(preset), side, *size)) for side in SIDES]
        print(*rows[-2:], sep="\n", flush=True)
    return rows


def codings() -> list[str]:
    """Rows of the autoencoder at real sizes."""
    rows = []
    for name, work in CODINGS.items():
        rows += [_row(name, side, work(side)) for side in SIDES]
        print(*rows[-2:], sep="\n", flush=True)
    return rows


def page(layer: list[str], coding: list[str]) -> str:
    """The tables, with what must be known to read them."""
    line = "\n"
    return f"""# Counts

What the work costs at real sizes, counted on tensors without memory: no device, no noise, the same on every
machine. Written by `make count`; do not edit by hand. [Performance](performance.md) has what was measured.

## One transformer layer

For the guidance pair (two clips) in bf16, every operator that is not a view; attention is one kernel. The peak
is that of the whole network, weights not counted: it does not grow with depth.

{HEAD}
{line.join(layer)}

## The autoencoder

In bf16 at the widths of the public checkpoints, in the chunks that their weights expect. The peak holds the
result (0.1 GB for 49 frames of 480×720), weights not counted.

{HEAD}
{line.join(coding)}

![ours beside diffusers](../images/counts.svg)

- *traffic*: each operator reads its inputs and writes its outputs once; expanded tensors count what they hold.
- *fused*: what is left when neighbouring pointwise operators, copies and normalisations become one pass.
- *and epilogues*: besides, what is pointwise on the result of one product (GELU) runs inside it, before it is written.
- *peak*: most bytes alive at once. Caching allocators and workspaces of kernels come on top.
- diffusers {version("diffusers")}, torch {version("torch").split("+")[0]}.
"""


def main() -> None:
    """Count, print, and write the page unless only one table was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["block", "vae"], help="one table, printed only")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # diffusers warns of a cast that changes nothing here
    if args.only:
        blocks() if args.only == "block" else codings()
        return
    PAGE.write_text(page(blocks(), codings()), encoding="utf-8")
    print(PAGE)
    print(*plot.draw(), sep="\n")


if __name__ == "__main__":
    main()
