"""The GPU benchmarks run small on a CPU, lose nothing when they are killed, and say what nobody has measured."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def gpu():
    import gpu

    return gpu


@pytest.fixture
def bench(tmp_path):
    import gpu_page
    import gpu_parts

    return gpu_parts.Bench(
        torch.device("cpu"), torch.float32, 1, True, gpu_page.Records(tmp_path / "gpu.jsonl")
    )


def figures_of(records):
    import gpu_page

    return gpu_page.figures(records.lines())


def test_every_part_has_a_name_and_a_time(gpu):
    import gpu_parts

    assert list(gpu.PARTS) == list(gpu_parts.WORK)
    assert sum(gpu.PARTS.values()) > 540 > sum(list(gpu.PARTS.values())[:15])  # the first fifteen fit


@pytest.mark.timeout(600)
def test_every_part_runs_small_without_pyav_and_notes_its_figures(tmp_path):
    """As on a machine that has the package's sources and no PyAV; and the page is made of the file afterwards."""
    (tmp_path / "none" / "av").mkdir(parents=True)
    (tmp_path / "none" / "av" / "__init__.py").write_text("raise ImportError('not here')\n")
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--repeats", "1", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "none"), "CUDA_VISIBLE_DEVICES": ""}
    environment["OMP_NUM_THREADS"] = "1"  # tensors this small wait for their threads on a busy machine
    subprocess.run([*command, "--seconds", "400"], cwd=ROOT, env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line["kind"] == "failure"]
    import gpu

    assert {line["part"] for line in lines if line["kind"] == "end"} == set(gpu.PARTS)
    names = {line["name"] for line in lines if line["kind"] == "figure"}
    assert {
        "shipped model, float32",
        "train, adapter",
        "training 5b 480×720, 6 s, all layers, adapter",
    } <= names
    page = tmp_path / "page.md"
    page.write_text("# Performance\n\nbefore\n")
    subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--from", str(tmp_path / "gpu.jsonl"), "--page", str(page)],
        cwd=ROOT, check=True,
    )  # fmt: skip
    text = page.read_text()
    import gpu_page

    aimed = {
        name: line for name in gpu_page.AIMS for line in text.splitlines() if line.startswith(f"| {name} |")
    }
    assert text.startswith("# Performance\n\nbefore\n") and len(aimed) == len(gpu_page.AIMS)
    assert not [line for line in aimed.values() if gpu_page.UNKNOWN in line]


def test_a_part_that_raises_is_noted_and_the_others_run(bench, monkeypatch):
    import gpu_parts

    def wrong(bench):
        bench.note("before", 1.0, "s")
        raise torch.OutOfMemoryError("Tried to allocate 69.11 GiB")

    monkeypatch.setitem(gpu_parts.WORK, "decode", wrong)
    expected = {"decode": 1, "products": 1, "video-5b-whole": 99}
    assert gpu_parts.run_parts(bench, expected, time.time() + 50) == 0
    lines = bench.records.lines()
    assert figures_of(bench.records)["before"] == "1 s"
    assert "OutOfMemoryError: Tried to allocate 69.11 GiB" in figures_of(bench.records)["part decode"]
    assert [line["part"] for line in lines if line["kind"] == "end"] == ["decode", "products"]
    assert [line["part"] for line in lines if line["kind"] == "skipped"] == ["video-5b-whole"]


def test_a_device_that_answers_no_more_ends_the_process(bench, monkeypatch):
    import gpu_parts

    def poisoned(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(gpu_parts.WORK, "decode", poisoned)
    monkeypatch.setattr(gpu_parts.torch, "zeros", poisoned)
    assert gpu_parts.run_parts(bench, {"decode": 1, "products": 1}, time.time() + 50) == 1
    assert [line["part"] for line in bench.records.lines() if line["kind"] == "begin"] == ["decode"]


WORKER = """
import os, sys, time
sys.path.insert(0, {folder!r})
from gpu_page import Records
records = Records(__import__("pathlib").Path({path!r}))
for name in sys.argv[1:]:
    records.add("begin", part=name)
    if name == "crash": os._exit(139)
    if name == "hang": time.sleep(60)
    records.add("figure", part=name, name=name, value=1.0, unit="s")
    records.add("end", part=name)
"""


def test_a_crash_and_a_hang_cost_one_part_each(gpu, bench, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "PATIENCE", -59)  # a part of one second may take one
    (tmp_path / "worker.py").write_text(
        WORKER.format(folder=str(ROOT / "benchmarks"), path=str(bench.records.path))
    )
    expected = dict.fromkeys(("first", "crash", "second", "hang", "last"), 0.95)

    def command(names):
        return [sys.executable, str(tmp_path / "worker.py"), *names]

    gpu.supervise(expected, bench.records, command, time.time() + 60)
    measured = figures_of(bench.records)
    assert [name for name in expected if name in measured] == ["first", "second", "last"]
    assert "code 139" in measured["part crash"] and "ended after" in measured["part hang"]


def test_a_run_that_is_killed_leaves_whole_lines(bench, tmp_path):
    code = WORKER.replace("time.sleep(60)", "pass").replace(
        "for name in sys.argv[1:]", "for name in map(str, range(10**6))"
    )
    (tmp_path / "worker.py").write_text(
        code.format(folder=str(ROOT / "benchmarks"), path=str(bench.records.path))
    )
    process = subprocess.Popen([sys.executable, str(tmp_path / "worker.py")])
    while len(bench.records.lines()) < 50:
        time.sleep(0.05)
    process.kill()
    process.wait()
    text = bench.records.path.read_text()
    assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())
    with bench.records.path.open("a") as file:
        file.write('{"kind": "fig')  # as a machine that went away would leave it
    assert len(bench.records.lines()) == text.count("\n")


def test_wheels_are_put_on_the_path(gpu, tmp_path, monkeypatch):
    import zipfile

    monkeypatch.setattr(sys, "path", list(sys.path))
    with zipfile.ZipFile(tmp_path / "carried_one-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_one/__init__.py", "value = 1\n")
    apart = tmp_path / "two"
    (apart / "carried_two-1.dist-info").mkdir(parents=True)
    (apart / "carried_two.py").write_text("value = 2\n")
    (tmp_path / "carried_three.py").write_text("value = 3\n")
    gpu.use_wheels(tmp_path)
    import carried_one
    import carried_three
    import carried_two

    assert (carried_one.value, carried_two.value, carried_three.value) == (1, 2, 3)


def test_the_floor_is_that_of_the_paper_sizes_at_the_rate_of_each(bench):
    """FLOPs of the fact sheet: 16.91 PFLOP linear and 16.31 attention for 50 steps of the 5B at 480×720."""
    import gpu_parts

    bench.small = False
    bench.note("matrix product", 788.0, "TFLOP/s")
    bench.note("attention 480×720, 6 s, best", 500.0, "TFLOP/s")
    bench.note("attention 768×1360, 5 s, best", 250.0, "TFLOP/s")
    size = gpu_parts.VIDEO
    seconds = 50 * gpu_parts.floor(bench, bench.spec("5b"), size, size)
    assert seconds == pytest.approx(16.91e15 / 788e12 + 16.31e15 / 500e12, rel=0.01)


def test_the_page_says_what_is_not_measured_and_keeps_what_is():
    import gpu_page

    empty = gpu_page.section({}, "")
    assert empty.count(gpu_page.UNKNOWN) == len(gpu_page.AIMS) + 2
    page = gpu_page.put_into("# Performance\n", empty)
    filled = gpu_page.put_into(page, gpu_page.section({"video 5b 480×720, 6 s": "61 s"}, "On a card."))
    assert "61 s" in filled and filled.count(gpu_page.BEGIN) == 1
    assert gpu_page.taken_from(filled) in filled
    assert gpu_page.taken_from((ROOT / "docs" / "records" / "performance.md").read_text()).startswith(
        gpu_page.BEGIN
    )


def test_the_shipped_model_is_trained_and_scored_within_its_time(tmp_path, monkeypatch):
    import train_shipped_gpu

    from cogvideox.checkpoints.diffusers import load_transformer
    from cogvideox.training.tasks import diffusion_data

    monkeypatch.setattr(diffusion_data, "HELD_OUT_CLIPS", 4)
    args = argparse.Namespace(
        minutes=0.05, out=tmp_path, cache=tmp_path / "cache", clips=8, batch=4, prompts=1, seed=1, scratch=False,
        small=True, wheels=None, recipe="world-t2v-fine", vae="tiny", text="tiny", workers=0,
    )  # fmt: skip
    scores = train_shipped_gpu.run(args)
    assert scores["steps"] > 0 and scores["held_out"] < 2 and scores["facts"]["all facts"]["asked"] == 1
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    before = load_transformer(ROOT / "src/cogvideox/shipped/tiny-base", dtype="float32").state_dict()
    after = load_transformer(tmp_path, dtype="float32").state_dict()
    assert before.keys() == after.keys() and any(
        not torch.equal(before[name], after[name]) for name in before
    )
    assert max(file.stat().st_size for file in tmp_path.rglob("*") if "cache" not in str(file)) <= 16 << 20


def test_the_transformer_of_the_rich_world_is_trained_by_the_same_script(tmp_path, monkeypatch):
    import train_shipped_gpu

    from cogvideox.checkpoints.diffusers import load_transformer
    from cogvideox.training.tasks import diffusion_data

    monkeypatch.setattr(diffusion_data, "HELD_OUT_CLIPS", 4)
    monkeypatch.setattr(diffusion_data, "STORY_CLIPS", 9)
    args = argparse.Namespace(
        minutes=0.05, out=tmp_path, cache=tmp_path / "cache", clips=8, batch=4, prompts=1, seed=1, scratch=False,
        small=True, wheels=None, recipe="small-t2v", vae="tiny", text="tiny", workers=0,
    )  # fmt: skip
    scores = train_shipped_gpu.run(args)
    assert scores["steps"] > 0 and scores["facts"]["all facts"]["asked"] == 1
    assert load_transformer(tmp_path, dtype="float32").config.width == 320
    assert max(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 16 << 20


def test_matrices_of_one_shape_move_together_as_torch_moves_them():
    import train_shipped_gpu

    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((8, 8), (8, 8), (16, 4), (4, 16))]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    batched = train_shipped_gpu.BatchedMuon(ours, 0.02, 0.1)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        with torch.no_grad():
            batched.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).detach().abs().max()) < 2e-3  # bf16 products, batched or not


def test_pictures_are_drawn_from_the_pages():
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
