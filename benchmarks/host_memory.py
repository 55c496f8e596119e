"""Peak memory and time of a CogVideoX on a CPU, by where its weights are: random weights of the real sizes.

    python benchmarks/host_memory.py make big            writes a 2B with T5-XXL in bf16 (13.4 GB), tensor by tensor
    python benchmarks/host_memory.py run big --memory disk --steps 2
    python benchmarks/host_memory.py table big           all rows, each in a process of its own

The peak is that of the whole process (``getrusage``, what ``/usr/bin/time -v`` prints), Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHARD = 4_000_000_000
ROWS = ("resident", "phases", "disk")


@dataclass(frozen=True)
class Made:
    """One tensor to write."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * 2


def write_shards(folder: Path, stem: str, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """Random bf16 weights in safetensors shards; one tensor is in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[Made]] = [[]]
    for name, shape in shapes.items():
        made = Made(name, tuple(shape))
        if sum(each.nbytes for each in shards[-1]) + made.nbytes > SHARD:
            shards.append([])
        shards[-1].append(made)
    generator, weight_map = torch.Generator().manual_seed(seed), {}
    noise = torch.randn(2**24, generator=generator).to(torch.bfloat16)  # drawn once, cut anew for each tensor
    for number, tensors in enumerate(shards, 1):
        numbered = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = folder / f"{stem}{numbered}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for made in tensors:
            ends = [offset, offset + made.nbytes]
            header[made.name] = {"dtype": "BF16", "shape": list(made.shape), "data_offsets": ends}
            offset, weight_map[made.name] = ends[1], file.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(file, "wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for made in tensors:
                for piece in values(made, noise):
                    stream.write(piece.view(torch.uint8).numpy().data)
    if len(shards) > 1:
        total = sum(made.nbytes for shard in shards for made in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def values(made: Made, noise: Tensor) -> Iterator[Tensor]:
    """Weights that keep activations near one: ones for norms, zeros for biases, noise by fan-in for the rest."""
    count = math.prod(made.shape)
    if len(made.shape) == 1:
        bias = made.name.endswith("bias")
        yield torch.zeros(count, dtype=torch.bfloat16) if bias else torch.ones(count, dtype=torch.bfloat16)
        return
    scale = 1.0 if "shared" in made.name else math.prod(made.shape[1:]) ** -0.5
    scale *= 0.3 if ".SelfAttention.q" in made.name else 1.0
    start = sum(made.name.encode()) % 1000
    while count:
        piece = noise[start : start + count] * scale
        yield piece
        count, start = count - len(piece), 0


def make(folder: Path, layers: int) -> None:
    """A model folder of the 2B with T5-XXL and the shipped tokenizer. ``layers`` of each, for a trial."""
    from cogvideox.checkpoints.diffusers import meta_names, write_index, write_schedule
    from cogvideox.checkpoints.hub import find_folder
    from cogvideox.checkpoints.record import ModelRecord
    from cogvideox.checkpoints.text import CONFIG, text_names
    from cogvideox.presets import T5_XXL, get_preset
    from cogvideox.text.t5 import T5Config

    spec = get_preset("2b")
    settings = {key: value for key, value in T5_XXL.items() if key in T5Config.model_fields}
    transformer, text = spec.transformer, T5Config(**settings)
    if layers:
        transformer, text = transformer.changed(num_layers=layers), text.changed(num_layers=layers)
    for name, config, stem, shapes in (
        ("transformer", transformer, "diffusion_pytorch_model", meta_names(transformer)),
        ("vae", spec.vae, "diffusion_pytorch_model", meta_names(spec.vae)),
        ("text_encoder", text, "model", text_names(text)),
    ):
        write_shards(folder / name, stem, shapes, seed=len(name))
        plain = config.model_dump(mode="json")
        kind = {"transformer": "CogVideoXTransformer3DModel", "vae": "AutoencoderKLCogVideoX"}.get(name)
        head = {"_class_name": kind} if kind else CONFIG
        written = config.released() if name == "vae" else plain
        (folder / name / "config.json").write_text(json.dumps({**head, **written}))
    shutil.copytree(find_folder("tiny") / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    write_schedule(folder, spec.schedule)
    write_index(folder, spec.kind)
    ModelRecord(kind=spec.kind, dtype="bfloat16").write(folder)


class Enough(Exception):
    """The stages that are measured are over."""


def run(folder: Path, memory: str, steps: int, decode: bool) -> dict[str, float | str]:
    """One video on a CPU, or all of it but its pixels; seconds of its stages, and the peak of this process."""
    import cogvideox
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.pipeline import run as make_video
    from cogvideox.generation.plan import Given, plan_run
    from cogvideox.generation.turn import Progress
    from cogvideox.memory import offload

    began = time.monotonic()
    model = cogvideox.load(folder, device="cpu", digests=False, read_weights=memory == "resident")
    model = offload(model, "cpu", memory)  # type: ignore[arg-type]
    loaded = time.monotonic() - began
    options = GenerateOptions(
        prompt="a red circle moves", steps=steps, frames=9, height=240, width=352, seed=1, anyway=True,
        check_numerics=False,
    )  # fmt: skip
    begun: dict[str, float] = {}

    def note(step: Progress) -> None:
        begun.setdefault(step.stage, time.monotonic())
        if step.stage == "decode" and not decode:
            raise Enough

    video = None
    with suppress(Enough):
        video = make_video(model, plan_run(model.spec, options, Given()), Given(), note).video
    ends = [*list(begun.values())[1:], time.monotonic()]
    stages = {name: end - start for (name, start), end in zip(begun.items(), ends, strict=True)}
    return {
        "memory": memory,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "load": round(loaded, 2),
        **{name: round(seconds, 2) for name, seconds in stages.items()},
        "seconds": round(time.monotonic() - began, 2),
        "sum": int(video.frames.astype("int64").sum()) if video is not None else 0,
    }


def table(folder: Path, steps: int, rows: list[str]) -> None:
    """Every row in a process of its own, as JSON lines."""
    for row in rows:
        words = [sys.executable, __file__, "run", str(folder), "--memory", row, "--steps", str(steps)]
        done = subprocess.run(words, capture_output=True, text=True)
        print(done.stdout.strip() or done.stderr[-2000:], flush=True)


def main() -> None:
    """The three commands above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "run", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", default="disk", choices=ROWS)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layers", type=int, default=0, help="of each network, for a trial; 0: all")
    parser.add_argument("--no-decode", action="store_true", help="stop after the last step: for times")
    asked = parser.parse_args()
    if asked.what == "make":
        make(asked.folder, asked.layers)
    elif asked.what == "run":
        print(json.dumps(run(asked.folder, asked.memory, asked.steps, not asked.no_decode)))
    else:
        table(asked.folder, asked.steps, asked.rows)


if __name__ == "__main__":
    main()
