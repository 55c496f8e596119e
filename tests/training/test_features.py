"""The feature network of the tiny world is trained by the one loop, as the recipe says; FVD can read what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from cogvideox.perception.world_features import WEIGHTS, WorldNetwork, world_features
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import train
from cogvideox.training.recipes import Run, recipe, run
from cogvideox.training.tasks.features import ANSWERS
from cogvideox.world.distortions import DISTORTIONS

SMALL = ["steps=2", "task.batch=2", "task.held_out=4", "optim.warmup=1", "log_every=1", "save_every=1"]


def small(out: Path) -> Run:
    return recipe("world-features").override([*SMALL, f"out={out}", "precision=fp32"])


def test_the_recipe_trains_measures_resumes_and_writes_features_that_the_package_reads(tmp_path):
    result = run(small(tmp_path / "whole"))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    figures = lines[-1]
    assert all(0 <= figures[f"held_out_{name}"] <= 1 for name in ANSWERS)
    assert all(figures[f"held_out_{name}"] >= 0 for name in DISTORTIONS)
    weights = load_file(result / WEIGHTS)
    network = WorldNetwork({})
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    features = network.eval().features(torch.zeros(1, 3, 17, 64, 64))
    assert features.shape == (1, world_features().card.dim) and features.isfinite().all()

    train(small(tmp_path / "cut"), stop_at=1)
    assert latest_state(tmp_path / "cut")["step"] == 1
    again = load_file(run(small(tmp_path / "cut")) / WEIGHTS)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
