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


@pytest.mark.parametrize("name", ["layer of the 2B", "layer of the 5B"])
def test_both_sides_of_a_layer_agree(cases, name):
    with torch.inference_mode():
        ours, theirs = (cases.REAL[name](cases.SIZES["smoke"], side)() for side in ("ours", "diffusers"))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4


def test_rows_at_real_widths_have_a_section_of_their_own(cases, tmp_path):
    import argparse

    import plot
    import run

    page = tmp_path / "performance.md"
    page.write_text("| VAE decode | 1.0 | 2.0 | **0.50** | 1 | 2 | **0.50** | 0 |\n\nMemory is what\n")
    args = argparse.Namespace(repeats=3, threads=2, clock="wall")
    for seconds in ("3.0", "4.0"):  # written twice, the second replaces the first
        row = f"| layer of the 2B | {seconds} | 8.0 | **0.50** | 1 | 2 | **0.50** | 0 |"
        run.write_real(run.real_section(args, [row], ["| a layer | 1 | 2 | **2.00** |"]), page)
    text = page.read_text()
    assert text.count(run.REAL_BEGIN) == 1 and "| 3.0 |" not in text and "**2.00**" in text
    assert run.real_part(page) in text and "make bench-real" in run.real_part(tmp_path / "none.md")
    assert [pair.name for pair in plot.of_performance(text)][2:] == [
        "layer of the 2B: time",
        "layer of the 2B: memory",
    ]


def test_an_estimate_is_of_the_work_that_is_measured(cases):
    import estimates

    sized = cases.SIZES["real"]
    for asked, heads in (
        (estimates.request("2b", 240, 352, layers=1), 30),
        (estimates.request("5b", 240, 352, layers=1), 48),
    ):
        step = estimates.efforts(asked, 1)["denoise"]
        tokens = 2 * (sized.text_tokens + 990)
        assert step.products == 24 * tokens * (64 * heads) ** 2
    assert "**" in estimates.row(
        "x", estimates.request("tiny", 32, 32), "decode", lambda: torch.ones(1), repeats=1
    )
