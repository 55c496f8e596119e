"""What the benchmark compares is the same work: both sides give the same numbers before either is timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def cases(monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cases

    return cases


@pytest.mark.parametrize(
    "name",
    [
        "VAE encode",
        "VAE decode",
        "transformer forward",
        "generation, 10 steps",
        "2 DPM steps",
        "training step",
        "VAE training step",
    ],
)
def test_both_sides_agree(cases, name):
    assert name in cases.CASES
    with torch.inference_mode():
        ours, theirs = (cases.CASES[name](cases.SIZES["smoke"], side)() for side in ("ours", "diffusers"))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4


def test_the_page_has_a_row_for_every_case(cases, monkeypatch):
    import argparse

    import run

    args = argparse.Namespace(size="smoke", repeats=1, threads=1)
    text = run.page(args, [f"| {name} |" for name in cases.CASES], ["| `import torch` |"])
    assert all(f"| {name} |" in text for name in cases.CASES)
    assert "threads, float32" in text and "torch 2" in text
