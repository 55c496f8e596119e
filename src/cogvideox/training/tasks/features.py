"""Training the feature network of the tiny world: the facts of rendered clips, and how clips were spoilt.

Its 64 features are what FVD of the tiny world compares. Scenes are those of training, so held-out combinations stay
unseen. The shipped weights stay as they are: training again makes another metric, with another digest on its card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from cogvideox.data.clips import to_model
from cogvideox.noise import generator
from cogvideox.perception.world_features import WEIGHTS, WorldNetwork
from cogvideox.training.task import Task, TaskConfig
from cogvideox.world import COLOURS, DIRECTIONS, SHAPES, render, sample_scene
from cogvideox.world.distortions import DISTORTIONS, distort
from cogvideox.world.scene import random_source

ANSWERS: dict[str, tuple[Any, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": (1, 2, 3),
    "direction": ("none", *DIRECTIONS),
    "speed": ("slow", "normal", "fast"),
    "change": ("none", "grow", "shrink", "rotate", "transform"),
    "camera": ("static", "left", "right"),
}
"""Facts of a scene -> what each can be."""

HELD_OUT_SEED = 8
FLAW_COUNTS = [0, 1, 2], [0.3, 0.5, 0.2]
"""How many ways a clip is spoilt in, and how often."""


class FeaturesTraining(TaskConfig):
    """Spoilt clips of the tiny world -> their facts and flaws."""

    kind: Literal["features"] = Field("features", description="the task: train the world's feature network")
    batch: int = Field(16, gt=0, description="clips of a step")
    held_out: int = Field(400, gt=0, description="clips of held-out scenes that are measured")

    def build(self, seed: int, steps: int | None = None) -> FeaturesTask:
        return FeaturesTask(self, seed)


class FeaturesTask(Task):
    """The feature network learns facts and flaws of rendered clips; see the module."""

    config: FeaturesTraining
    module: WorldNetwork

    def __init__(self, config: FeaturesTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        torch.manual_seed(generator(seed, "world features").initial_seed())
        heads = {name: len(options) for name, options in ANSWERS.items()} | {"flaws": len(DISTORTIONS)}
        self.module = WorldNetwork(heads)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy of each fact and ten times the squared error of the flaws, summed."""
        first = step * self.config.batch
        pixels, truth = _examples(self.seed, range(first, first + self.config.batch), "train")
        answers = self.module(pixels.contiguous(memory_format=torch.channels_last_3d))
        facts = torch.stack([cross_entropy(answers[name].float(), truth[name]) for name in ANSWERS]).sum()
        flaws = mse_loss(answers["flaws"].float(), truth["flaws"])
        return {"loss": facts + 10 * flaws, "facts": facts, "flaws": flaws}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Share of right answers per fact on held-out scenes, and the root mean squared error of each flaw."""
        right: dict[str, list[float]] = {name: [] for name in ANSWERS}
        errors: list[Tensor] = []
        for first in range(0, self.config.held_out, 16):
            clips = range(first, min(first + 16, self.config.held_out))
            pixels, truth = _examples(HELD_OUT_SEED, clips, "held_out")
            answers = module(pixels)
            for name in ANSWERS:
                right[name] += (answers[name].argmax(1) == truth[name]).float().tolist()
            errors.append((answers["flaws"] - truth["flaws"]).square())
        flaws = torch.cat(errors).mean(0).sqrt().tolist()
        return {f"held_out_{name}": float(np.mean(values)) for name, values in right.items()} | {
            f"held_out_{name}": error for name, error in zip(DISTORTIONS, flaws, strict=True)
        }

    def export(self, module: nn.Module, folder: Path) -> None:
        """The features' weights in half precision; the heads are not needed any more."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value for name, value in module.state_dict().items() if not name.startswith("heads")}
        save_file({name: value.half().contiguous() for name, value in weights.items()}, str(folder / WEIGHTS))


def example(seed: int, index: int, split: str = "train") -> tuple[np.ndarray, dict[str, int], list[float]]:
    """A rendered clip, spoilt in at most two ways; its facts as class numbers; the amount of each flaw, 0 to 1."""
    scene = sample_scene(seed, index, split)
    rng = random_source(seed, "flaws", index)
    amounts = [0.0] * len(DISTORTIONS)
    counts, shares = FLAW_COUNTS
    for flaw in rng.choice(len(DISTORTIONS), size=int(rng.choice(counts, p=shares)), replace=False):
        amounts[flaw] = float(rng.random())
    clip = render(scene)
    for name, amount in zip(DISTORTIONS, amounts, strict=True):
        clip = distort(clip, name, amount, rng)
    classes = {name: options.index(getattr(scene, name)) for name, options in ANSWERS.items()}
    return clip, classes, amounts


def _examples(seed: int, indices: range, split: str) -> tuple[Float[Tensor, "b 3 t h w"], dict[str, Tensor]]:
    """Pixels in [-1, 1] and the answers of these examples."""
    examples = [example(seed, index, split) for index in indices]
    pixels = torch.from_numpy(np.stack([clip for clip, _, _ in examples]))
    answers = {name: torch.tensor([facts[name] for _, facts, _ in examples]) for name in ANSWERS}
    answers["flaws"] = torch.tensor([amounts for _, _, amounts in examples])
    return to_model(pixels), answers
