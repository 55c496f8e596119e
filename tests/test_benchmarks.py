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
        "2 DPM steps, noise given",
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

    import halves
    import run

    args = argparse.Namespace(size="smoke", repeats=1, threads=1, clock="wall")
    half = halves.Half("x", 1.0, 0.5, 1.1, (1.0, 1.2)).row
    text = run.page(args, [f"| {name} |" for name in cases.CASES], ["| `import torch` |"], [half])
    assert "**1.10** (1.00 to 1.20)" in text
    assert all(f"| {name} |" in text for name in cases.CASES)
    assert "threads, float32" in text and "torch 2" in text


def test_bfloat16_is_timed_both_ways(cases):
    import halves

    found = halves.measure(cases.SIZES["smoke"], 1)
    assert [half.name for half in found] == ["transformer forward", "VAE decode"]
    assert all(half.plain > 0 and half.without_units > 0 for half in found)


def test_a_stochastic_step_is_few_operations(cases):
    import run

    assert run.operators("ours") <= 12 < run.operators("diffusers")
