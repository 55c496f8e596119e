"""How far a predicted peak is from the measured one: ten settings on the CPU, each in a process of its own.

python benchmarks/plan.py                     minutes; prints a table, and writes docs/records/memory_predictions.md
python benchmarks/plan.py --one decode 3      one measurement, bytes
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cogvideox.diffusion import SAMPLERS, Schedule, guided, sequential
from cogvideox.memory import Request
from cogvideox.memory.stages import decoding, denoising, encoding
from cogvideox.presets import get_preset
from cogvideox.spec import ModelSpec
from cogvideox.transformer import Transformer
from cogvideox.transformer.modulation import tabulated
from cogvideox.vae import VAE
from memory import peak_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "records" / "memory_predictions.md"
THREADS = 1


@dataclass(frozen=True)
class Setting:
    """A stage of a model at a size."""

    stage: str  # denoise, decode or encode
    row: ModelSpec
    frames: int
    height: int
    width: int
    pair: str = "batched"

    @property
    def name(self) -> str:
        """One line of the table."""
        row = self.row
        what = (
            f"{row.transformer.num_attention_heads} heads of {row.transformer.attention_head_dim}"
            if self.stage == "denoise"
            else f"widths {row.vae.block_out_channels}"
        )
        pair = ", pair in sequence" if self.pair == "sequence" else ""
        return f"{self.stage} {self.frames}×{self.height}×{self.width}, {row.name}: {what}{pair}"

    @property
    def request(self) -> Request:
        """What plan is asked."""
        t = (self.frames - 1) // 4 + 1
        given = self.frames if self.stage == "encode" else 0
        return Request(
            spec=self.row,
            frames=self.frames,
            latents=t,
            height=self.height,
            width=self.width,
            dtype=torch.float32,
            given=given,
            steps=2,
        )

    def predict(self) -> int:
        """Bytes on top of the weights, as plan says."""
        if self.stage == "denoise":
            return denoising(self.request, "sequence" if self.pair == "sequence" else "batched")
        return (
            decoding(self.request, "chunked") if self.stage == "decode" else encoding(self.request, "chunked")
        )

    def work(self) -> Callable[[], object]:
        """The same on real tensors; weights are made before."""
        row, t = self.row, (self.frames - 1) // 4 + 1
        if self.stage == "denoise":
            return self._sampling(t)
        vae = VAE(row.vae).eval()
        if self.stage == "decode":
            return lambda: vae.decode(torch.randn(1, 16, t, self.height // 8, self.width // 8))
        return lambda: vae.encode(torch.randn(1, 3, self.frames, self.height, self.width)).mode()

    def _sampling(self, t: int) -> Callable[[], object]:
        row, network = self.row, Transformer(self.row.transformer).eval()
        path = Schedule(row.schedule).path(2)

        def work() -> object:
            x = torch.randn(1, 16, t, self.height // 8, self.width // 8)
            text = torch.randn(2, row.text_tokens, row.transformer.text_embed_dim)

            def reading(words: torch.Tensor):
                return lambda x, time: network(x, words, time)

            both = (
                sequential([reading(w) for w in text.split(1)]) if self.pair == "sequence" else reading(text)
            )
            with tabulated(network, [step.t for step in path]):  # as generate does by default
                return SAMPLERS["ddim"](guided(both, lambda step: 6.0), x, path)

        return work


def _changed(name: str, **settings: object) -> ModelSpec:
    row = get_preset(name)
    vae = {key: value for key, value in settings.items() if key in type(row.vae).model_fields}
    network = {key: value for key, value in settings.items() if key not in vae}
    return replace(
        row,
        vae_settings={**row.vae_settings, **vae},
        transformer_settings={**row.transformer_settings, **network},
    )


TINY = get_preset("tiny")
MID = _changed(
    "5b",
    block_out_channels=(32, 64, 128, 128),
    layers_per_block=2,
    norm_num_groups=16,
    num_attention_heads=8,
    num_layers=4,
    text_embed_dim=256,
    time_embed_dim=256,
)
WIDE = _changed("5b", block_out_channels=(64, 128, 128, 256), layers_per_block=1, num_attention_heads=16,
                num_layers=3, text_embed_dim=256, time_embed_dim=256)  # fmt: skip
SETTINGS = [
    Setting("decode", TINY, 17, 64, 64),
    Setting("decode", TINY, 33, 128, 128),
    Setting("decode", MID, 17, 96, 128),
    Setting("decode", WIDE, 9, 96, 128),
    Setting("encode", TINY, 17, 128, 128),
    Setting("encode", MID, 17, 128, 160),
    Setting("denoise", TINY, 49, 192, 192),
    Setting("denoise", MID, 33, 192, 256),
    Setting("denoise", MID, 33, 192, 256, "sequence"),
    Setting("denoise", WIDE, 33, 192, 256),
]


def measure(index: int, returning: bool) -> int:
    """Bytes by which the process grows at its peak. ``returning``: freed memory goes back to the system at once."""
    kept = {} if not returning else {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--one", str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **kept})
    if done.returncode:
        raise RuntimeError(f"{SETTINGS[index].name}: {done.stderr.strip().splitlines()[-1]}")
    return int(float(done.stdout.strip().splitlines()[-1]))


def one(index: int) -> float:
    """The measurement itself; a very small run before it loads what is loaded once."""
    setting = SETTINGS[index]
    small = replace(setting, frames=9, height=16, width=16)
    small.work()()
    work = setting.work()
    gc.collect()
    return peak_of(work) * 1e6


def row_of(setting: Setting, predicted: float, measured: float, kept: float) -> str:
    """One line of the table, MB."""
    return (
        f"| {setting.name} | {predicted:.1f} | {measured:.1f} | **{predicted / measured:.2f}** | {kept:.1f} |"
    )


def page(rows: list[str]) -> str:
    """The table, with what must be known to read it."""
    line = "\n"
    return f"""# Planned and measured

What `cogvideox plan` predicts for a stage beside what the process grew by at its peak, weights not counted; float32
on a CPU, {THREADS} thread, each setting in a process of its own. Written by `python benchmarks/plan.py`; do not edit by
hand. [Memory](../memory.md) says how the prediction is made.

| setting | predicted (MB) | measured (MB) | predicted / measured | as glibc keeps it (MB) |
|---|---|---|---|---|
{line.join(rows)}

*Measured* is with an allocator that gives freed memory back (`MALLOC_MMAP_THRESHOLD_=65536`), as a device's caching
allocator reuses it. The last column is glibc as it comes: it keeps freed pieces of up to 32 MB, in a heap that
fragments. That is a property of the C library, up to 1.9 times here, and not in the prediction; it matters less the
larger the tensors are.
"""


def main() -> None:
    """All settings, or one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, help="measure one setting and print bytes")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    with torch.no_grad():
        if args.one is not None:
            print(one(args.one))
            return
        rows = []
        for index, setting in enumerate(SETTINGS):
            found = (setting.predict(), measure(index, returning=True), measure(index, returning=False))
            rows.append(row_of(setting, *(bytes / 1e6 for bytes in found)))
            print(rows[-1], flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
