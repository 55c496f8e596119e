"""The figures of docs/clusters.md: memory by `plan` and tokens per second by counted FLOPs, for 1, 8 and 64 GPUs.

    python benchmarks/clusters.py            print their rows, minutes
    python benchmarks/clusters.py --write    put them into the page too, between its markers

Nothing is measured: seconds are counted FLOPs at a share of a card's printed peak, as in `plan --card`. Each row of
training is one command, `cogvideox plan MODEL --train RECIPE SETTINGS --gpus N --device cuda --card CARD --json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.device import PEAKS
from cogvideox.generation.preflight import forecast, plan_memory
from cogvideox.memory.seconds import efforts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"
BEGIN, END = "<!-- {}: by benchmarks/clusters.py -->", "<!-- end of {} -->"
MODELS = ("2b", "5b")
STEPS = 50
SHARDED = {8: "mesh.shard=8 task.accumulation=8", 64: "mesh.data=8 mesh.shard=8 task.accumulation=64"}
TRAINING: tuple[tuple[str, str, int, str], ...] = (
    *(("lora", model, gpus, f"task.accumulation={max(4, gpus)}") for model in MODELS for gpus in (1, 8, 64)),
    ("finetune", "2b", 1, "task.accumulation=4"),
    ("finetune", "5b", 1, "task.accumulation=4 optim.ema=0"),
    *(("finetune", model, gpus, SHARDED[gpus]) for model in MODELS for gpus in (8, 64)),
)


def planned(recipe: str, model: str, gpus: int, settings: str, card: str) -> dict[str, Any]:
    """What `plan --train` says as JSON, whether or not it fits."""
    words = ["plan", model, "--train", recipe, *settings.split(), "--gpus", str(gpus), "--device", "cuda"]
    done = CliRunner().invoke(app, [*words, "--card", card, "--memory-limit", "80GB", "--json"])
    if not done.stdout:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def training_rows(card: str) -> list[str]:
    """One row for each model, recipe and number of GPUs."""
    rows = [
        "| GPUs | model, recipe | settings | clips a step | memory of each | step | tokens a second, all GPUs |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, model, gpus, settings in sorted(
        TRAINING, key=lambda each: (each[0] != "lora", each[1], each[2])
    ):
        found = planned(recipe, model, gpus, settings, card)
        clips = found["rows"] * gpus
        speed = found["tokens"] * clips / found["seconds"]
        memory = f"{found['peak_bytes'] / 1e9:.0f} GB" + ("" if found["fits"] else ", more than 80 GB hold")
        rows.append(
            f"| {gpus} | {model}, {recipe} | `{settings}` | {clips} | {memory} | {found['seconds']:.1f} s "
            f"| {speed:,.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def generation_rows(card: str) -> list[str]:
    """Videos an hour and tokens a second of many prompts, one video on each GPU."""
    rows = [
        "| videos of | memory, all weights on the GPU | PFLOP a video | seconds a video | tokens a second, one GPU | "
        "videos an hour: 1 GPU | 8 | 64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        found = plan_memory(model, device="cuda", memory_limit="80GB")
        request = found.request
        work = sum(
            each.products + each.attention + each.convolutions for each in efforts(request, STEPS).values()
        )
        seconds = forecast(request, STEPS, card).seconds
        side = request.spec.vae.spatial_compression_ratio * request.spec.transformer.patch_size
        tokens = (
            request.latents * (request.height // side) * (request.width // side) + request.spec.text_tokens
        )
        hourly = " | ".join(f"{3600 * gpus / seconds:,.0f}" for gpus in (1, 8, 64))
        size = f"{request.frames} frames {request.height}×{request.width}"
        rows.append(
            f"| `{model}`, {size}, {STEPS} steps | {found.options[0].peak / 1e9:.1f} GB | {work / 1e15:.1f} | "
            f"{seconds:.0f} | {2 * STEPS * tokens / seconds:,.0f} | {hourly} |"
        )
        print(rows[-1], flush=True)
    return rows


def between(text: str, name: str, rows: list[str]) -> str:
    """The page with these rows between the markers of ``name``."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n" + "\n".join(rows) + f"\n\n{end}{after}"


def main() -> None:
    """Print the rows, and write the tables into the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", default="H100", choices=sorted(PEAKS))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    tables = {"generation": generation_rows(args.card), "training": training_rows(args.card)}
    if not args.write:
        return
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in tables.items():
        text = between(text, name, rows)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
