"""Table 1 in miniature: every autoencoder variant trained on the same clips with the same budget.

python benchmarks/table1.py --steps 400 --out runs/table1       the same command resumes

Our clips are moving shapes of 64 x 64 pixels and our networks have an eighth of the width: beside the paper's
figures only directions can be compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cogvideox.training.loop import train
from cogvideox.training.variants import TABLE_1, variant_run

MEASURES = ("held_out_psnr", "held_out_flickering", "held_out_lpips")


def measured(name: str, steps: int, out: Path) -> dict[str, float]:
    """Train a variant, or go on with it, and return its last held-out figures."""
    run = variant_run(name, steps).model_copy(update={"out": str(out / name)})
    train(run)
    lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "held_out_psnr" in line][-1]


def row(name: str, figures: dict[str, float]) -> str:
    """One variant: what it is, our figures, the paper's."""
    one = TABLE_1[name]
    ours = " | ".join(f"{figures[m]:.4g}" if m in figures else "" for m in MEASURES)
    paper = f"{one.psnr or ''} | {one.flickering or ''}"
    return f"| {name} | {one.space}×{one.space}×{one.time} | {one.channels} | {ours} | {paper} |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    parser.add_argument("--only", nargs="*", choices=list(TABLE_1), default=list(TABLE_1))
    args = parser.parse_args()
    rows = [row(name, measured(name, args.steps, args.out)) for name in args.only]
    print(
        "| variant | compression | channels | PSNR | flickering | LPIPS | paper: PSNR | paper: flickering |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
