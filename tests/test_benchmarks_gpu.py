"""The GPU benchmark runs at a tiny size on a CPU, and its page says what nobody has measured."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def bench(gpu):
    return gpu.Bench(torch.device("cpu"), torch.float32, 1, True, False, False, {})


@torch.no_grad()
def test_every_part_runs_small_and_fills_a_row_of_the_page(gpu, bench):
    for measure in (gpu.kernels, gpu.step, gpu.decode, gpu.training):
        measure(bench)
    assert {"matrix product", "copy", "step 5b 256×384, 6 s", "training 5b 480×720, 6 s"} <= set(bench.found)
    assert "of the roofline" in bench.found["step 5b 256×384, 6 s"]
    text = gpu.section(bench.found, "Measured somewhere.")
    assert f"| step 5b 256×384, 6 s | {bench.found['step 5b 256×384, 6 s']} | 0.21 s | 0.41 s |" in text


def test_the_floor_is_that_of_the_paper_sizes(gpu, bench):
    """FLOPs of the fact sheet: 16.91 PFLOP linear and 16.31 attention for 50 steps of the 5B at 480×720."""
    bench.small, bench.gemm, bench.attention = False, 788e12, 500e12
    seconds = 50 * gpu.floor(bench, bench.row("5b"), gpu.VIDEO)
    assert seconds == pytest.approx(16.91e15 / 788e12 + 16.31e15 / 500e12, rel=0.01)


def test_the_page_says_what_is_not_measured_and_keeps_what_is(gpu):
    empty = gpu.section({}, "")
    assert empty.count(gpu.UNKNOWN) == len(gpu.AIMS) + 2
    page = gpu.put_into("# Performance\n", empty)
    filled = gpu.put_into(page, gpu.section({"video 5b 480×720, 6 s": "61 s"}, "On a card."))
    assert "61 s" in filled and filled.count(gpu.BEGIN) == 1
    assert gpu.taken_from(filled) in filled
    assert gpu.taken_from((ROOT / "docs" / "records" / "performance.md").read_text()).startswith(gpu.BEGIN)


def test_pictures_are_drawn_from_the_pages(gpu):
    import plot

    docs = ROOT / "docs"
    counted = plot.of_counts((docs / "records" / "counts.md").read_text())
    measured = plot.of_performance((docs / "records" / "performance.md").read_text())
    assert len(counted) >= 16 and {pair.unit for pair in measured} == {"s", "MB"}
    picture = ElementTree.fromstring(plot.bars("a < b", [plot.Pair("one & two", 1.0, 2.0, "GB")]))
    widths = [float(box.get("width")) for box in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[-1] == pytest.approx(2 * widths[-2])
    for name in ("counts", "performance"):
        assert ElementTree.parse(docs / "images" / f"{name}.svg").getroot().tag.endswith("svg")
