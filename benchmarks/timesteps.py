"""Explicit uniform sampling beside plain (Table 9, Fig. 10d): variance of a batch's loss, and the held-out loss.

python benchmarks/timesteps.py --out runs/timesteps       minutes on one core; the same command resumes

Small transformers learn clips of the tiny world, a pair of runs for each seed. Both runs of a pair see the same clips,
noise and dropped captions and begin with the same weights; only the timesteps differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from plot import curves

from cogvideox.presets import get_preset
from cogvideox.training.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.state import latest_state

Way = Literal["plain", "explicit"]
WAYS: tuple[Way, Way] = ("plain", "explicit")
BATCH = 8
PAPER = {"plain": (0.222, 0.130, 0.119, 0.133, 0.161), "explicit": (0.216, 0.126, 0.116, 0.129, 0.157)}


@dataclass(frozen=True)
class Found:
    """One run: losses of its batches, held-out losses by band, losses of batches when its weights stay."""

    losses: list[float]
    bands: list[float]
    still: list[float]

    @property
    def held_out(self) -> float:
        """Mean over the bands."""
        return statistics.fmean(self.bands)

    @property
    def late(self) -> float:
        """Standard deviation of the training loss in the second half of the run."""
        return statistics.stdev(self.losses[len(self.losses) // 2 :])


def settings(way: Way, clips: int, cache: str) -> DiffusionTraining:
    """A transformer of 3 layers and 0.9 M weights on clips of the tiny world, as the shipped autoencoder codes them."""
    preset = get_preset("tiny")
    shape = preset.transformer.with_arm(patch_size=2, num_layers=3, num_attention_heads=4)
    return DiffusionTraining(
        transformer=shape, schedule=preset.schedule, vae="tiny", text="tiny", cache=cache,
        clips=clips, batch=BATCH, uniform=way,
    )  # fmt: skip


def measured(way: Way, seed: int, args: argparse.Namespace) -> Found:
    """Train one run, or go on with it, and read what it found."""
    out, task = Path(args.out) / f"{way}-{seed}", settings(way, args.clips, args.cache)
    optim = OptimConfig(lr=2e-3, warmup=20, ema=0.98)
    train(
        TrainConfig(name=f"{way}-{seed}", task=task, out=str(out), steps=args.steps, seed=seed, optim=optim,
                    log_every=1, save_every=100, measure_every=args.steps)
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "held_out" in row][-1]
    bands = [value for name, value in last.items() if name.startswith("held_out_")]
    # the same weights for both ways: those that plain sampling ended with
    still = still_losses(task, Path(args.out) / f"plain-{seed}", seed, args)
    return Found([row["loss"] for row in rows if "loss" in row], bands, still)


@torch.no_grad()
def still_losses(config: DiffusionTraining, run: Path, seed: int, args: argparse.Namespace) -> list[float]:
    """The losses of batches that the run has not seen, with its averaged weights, which do not move."""
    task, state = DiffusionTask(config, seed), latest_state(run)
    assert state is not None
    task.module.load_state_dict(state["average"]["values"])
    return [float(task.losses(args.steps + call)["loss"]) for call in range(args.batches)]


def deviations(runs: list[list[float]], window: int = 20) -> list[float]:
    """The standard deviation of the last ``window`` losses, step by step, as a mean over runs."""
    ends = range(window, len(runs[0]) + 1)
    return [statistics.fmean(statistics.stdev(run[end - window : end]) for run in runs) for end in ends]


def told(mean: float, spread: float) -> str:
    """A mean and its error."""
    return f"{mean:.4f} ± {spread:.4f}"


def report(found: dict[Way, list[Found]]) -> str:
    """Markdown: held-out losses beside the paper's, then deviations and their ratios seed by seed."""
    seeds = len(found["plain"])
    lines = [
        "| timesteps | 100 | 300 | 500 | 700 | 900 | mean | paper: 100 to 900 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        bands = [statistics.fmean(column) for column in zip(*(one.bands for one in found[way]), strict=True)]
        cells = " | ".join(f"{band:.4f}" for band in (*bands, statistics.fmean(bands)))
        lines.append(f"| {way} | {cells} | {' '.join(f'{value:.3f}' for value in PAPER[way])} |")
    pairs = list(zip(found["plain"], found["explicit"], strict=True))
    gains = [plain.held_out - explicit.held_out for plain, explicit in pairs]
    spread = statistics.stdev(gains) / seeds**0.5 if seeds > 1 else float("nan")
    lines += [
        "",
        f"Held-out loss, plain less explicit, by pair: {', '.join(f'{gain:+.4f}' for gain in gains)}; "
        f"mean {told(statistics.fmean(gains), spread)} (standard error).",
        "",
        "| seed | deviation of the loss, weights still: plain | explicit | variance ratio | second half of training: "
        "plain | explicit |",
        "|---|---|---|---|---|---|",
    ]
    for seed, (plain, explicit) in enumerate(pairs):
        a, b = statistics.stdev(plain.still), statistics.stdev(explicit.still)
        lines.append(
            f"| {seed} | {a:.4f} | {b:.4f} | {(b / a) ** 2:.2f} | {plain.late:.4f} | {explicit.late:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained yet, print the tables, draw the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--clips", type=int, default=256, help="clips of the world to draw from")
    parser.add_argument("--batches", type=int, default=150, help="batches with weights that stay")
    parser.add_argument("--out", default="runs/timesteps")
    parser.add_argument("--cache", default="runs/latents")
    parser.add_argument("--figure", type=Path, help="draw how losses deviate, as SVG")
    args = parser.parse_args()
    found: dict[Way, list[Found]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        for way in WAYS:
            found[way].append(measured(way, seed, args))
    print(report(found))
    if args.figure:
        series = {way: deviations([one.losses for one in found[way]]) for way in WAYS}
        title = f"Deviation of the last 20 batches' losses (batch {BATCH}), by step"
        args.figure.write_text(curves(title, series), encoding="utf-8")


if __name__ == "__main__":
    main()
