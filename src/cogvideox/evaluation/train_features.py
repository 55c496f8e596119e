"""Train the feature network of the tiny world: facts of rendered clips, and how clips were spoilt.

    python -m cogvideox.evaluation.train_features --out world_features.safetensors

Some minutes on one core. Scenes are those of training, so held-out combinations stay unseen. The shipped weights
are frozen: training again makes another metric, with another digest on its card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from cogvideox.evaluation.flaws import FLAWS, spoil
from cogvideox.noise import generator
from cogvideox.perception.world_features import WorldNetwork
from cogvideox.world import COLOURS, DIRECTIONS, SHAPES, Scene, render, sample_scene
from cogvideox.world.scene import random_source

ANSWERS: dict[str, tuple] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": (1, 2, 3),
    "direction": ("none", *DIRECTIONS),
    "speed": ("slow", "normal", "fast"),
    "change": ("none", "grow", "shrink", "rotate", "transform"),
    "camera": ("static", "left", "right"),
}
HEADS = {name: len(options) for name, options in ANSWERS.items()} | {"flaws": len(FLAWS)}


def example(seed: int, index: int, split: str = "train") -> tuple[np.ndarray, dict[str, int], list[float]]:
    """A rendered clip, spoilt in at most two ways; its facts as class numbers; the amount of each flaw, 0..1."""
    scene = sample_scene(seed, index, split)
    rng = random_source(seed, "flaws", index)
    amounts = [0.0] * len(FLAWS)
    for place in rng.choice(len(FLAWS), size=int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2])), replace=False):
        amounts[place] = float(rng.random())
    clip = render(scene)
    for name, amount in zip(FLAWS, amounts, strict=True):
        clip = spoil(clip, name, amount, rng)
    return clip, _classes(scene), amounts


def _classes(scene: Scene) -> dict[str, int]:
    return {name: options.index(getattr(scene, name)) for name, options in ANSWERS.items()}


def batch(seed: int, first: int, size: int, split: str = "train") -> tuple[Tensor, dict[str, Tensor]]:
    """Pixels ``[b, 3, t, h, w]`` in [-1, 1] and the answers of examples ``first`` ... ``first + size - 1``."""
    rows = [example(seed, first + each, split) for each in range(size)]
    pixels = torch.from_numpy(np.stack([clip for clip, _, _ in rows])).permute(0, 4, 1, 2, 3)
    answers = {name: torch.tensor([facts[name] for _, facts, _ in rows]) for name in ANSWERS}
    answers["flaws"] = torch.tensor([amounts for _, _, amounts in rows])
    return pixels.float() / 127.5 - 1, answers


def loss_of(said: dict[str, Tensor], answers: dict[str, Tensor]) -> Tensor:
    """Cross entropy per fact and ten times the squared error of the flaws, summed."""
    facts = [cross_entropy(said[name], answers[name]) for name in ANSWERS]
    return torch.stack(facts).sum() + 10 * mse_loss(said["flaws"], answers["flaws"])


def train(steps: int, size: int = 16, lr: float = 4e-3, seed: int = 7) -> WorldNetwork:
    """Plain AdamW with one cycle of the learning rate."""
    torch.manual_seed(int(generator(seed, "world features").initial_seed()))
    network = WorldNetwork(HEADS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        pixels, answers = batch(seed, step * size, size)
        with torch.autocast("cpu", torch.bfloat16):
            said = network(pixels.contiguous(memory_format=torch.channels_last_3d))
        loss = loss_of({name: values.float() for name, values in said.items()}, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return network


def check(network: WorldNetwork, num: int = 400, seed: int = 8) -> dict[str, float]:
    """Share of right answers per fact on held-out scenes, and the error of each flaw (root mean square)."""
    right: dict[str, list[float]] = {name: [] for name in (*ANSWERS, *FLAWS)}
    with torch.inference_mode():
        for first in range(0, num, 16):
            pixels, answers = batch(seed, first, 16, "held_out")
            said = network(pixels)
            for name in ANSWERS:
                right[name] += (said[name].argmax(1) == answers[name]).float().tolist()
            for place, name in enumerate(FLAWS):
                right[name] += (said["flaws"][:, place] - answers["flaws"][:, place]).square().tolist()
    means = {name: float(np.mean(values)) for name, values in right.items()}
    return {name: mean**0.5 if name in FLAWS else mean for name, mean in means.items()}


def save(network: WorldNetwork, path: Path) -> None:
    """The features' weights in half precision; the heads are not needed any more."""
    kept = {
        name: t.half().contiguous()
        for name, t in network.state_dict().items()
        if not name.startswith("heads")
    }
    safetensors.torch.save_file(kept, str(path))


def main() -> None:
    """Train, print what it learned, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("world_features.safetensors"))
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    network = train(arguments.steps)
    for name, value in check(network.eval()).items():
        print(f"{name}: {value:.3f}")
    save(network, arguments.out)


if __name__ == "__main__":
    main()
