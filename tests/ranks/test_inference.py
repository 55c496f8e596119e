"""One video made by 2 and by 3 processes is the video that one process makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch.distributed as dist

import cogvideox
from cogvideox import GenerateOptions
from cogvideox.parallel.inference import Spread, spread
from support.processes import together

OPTIONS = GenerateOptions(prompt="a red circle moves to the right", steps=2, seed=5)


def make(ranks: int) -> tuple[np.ndarray, float]:
    """The frames, and the share of the transformer's weights that this rank holds."""
    model = cogvideox.load("tiny", device="cpu")
    whole = sum(p.numel() for p in model.transformer.parameters())
    if ranks > 1:
        spread(model.transformer, Spread.over(ranks, guided=True))
    parts = (getattr(p, "to_local", lambda p=p: p)() for p in model.transformer.parameters())
    share = sum(part.numel() for part in parts) / whole
    return cogvideox.generate(model, OPTIONS).frames, share


def here(ranks: int) -> tuple[np.ndarray, float]:
    made = make(ranks)
    dist.barrier()
    return made


@pytest.mark.parametrize(("ranks", "how"), [(2, Spread(2, 1)), (3, Spread(1, 3)), (4, Spread(2, 2))])
def test_who_shares_what(ranks, how):
    assert Spread.over(ranks, guided=True) == how and Spread.over(ranks, guided=False) == Spread(1, ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_make_the_video_of_one(ranks):
    alone, _ = make(1)
    for frames, share in together(ranks, here, ranks):
        difference = np.abs(frames.astype(int) - alone)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
        assert share < 1 / ranks + 0.05


def unseeded(ranks: int) -> int:
    model = cogvideox.load("tiny", device="cpu")
    spread(model.transformer, Spread.over(ranks, guided=True))
    seed = cogvideox.generate(model, OPTIONS.changed(seed=None)).manifest["seed"]
    dist.barrier()
    return seed


def test_processes_that_share_a_video_share_its_drawn_seed():
    first, second = together(2, unseeded, 2)
    assert first == second
