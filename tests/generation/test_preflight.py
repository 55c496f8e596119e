"""What would take a day, or more memory than there is, is refused before the first step; the rest is told."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cogvideox
from cogvideox import device
from cogvideox.cli import app
from cogvideox.device import available
from cogvideox.errors import InputError
from cogvideox.generation import GenerateOptions, preflight
from cogvideox.memory import Request
from cogvideox.memory.seconds import Rates, efforts, estimate, measured
from cogvideox.presets import PRESETS
from support.benchmarks import benchmark
from support.models import golden_model, golden_text, write_model_folder

SLOW = Rates(1e6, 1e6, 1e6, 1e6, 1e-3)
TINY = Request(spec=PRESETS["tiny"], frames=17, latents=5, height=64, width=64, dtype=torch.float32)


@pytest.fixture(scope="module")
def tiny():
    return cogvideox.load("tiny", device="cpu")


def command(*words: str):
    return CliRunner().invoke(app, ["generate", *words])


def test_centuries_are_refused_at_once_by_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    huge = ("--width", "6400", "--height", "6400")
    done = command("a red circle", *huge)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "17 frames of 6400x6400 in 8 steps: about" in done.stderr and "hours" in done.stderr
    assert "measured here" in done.stderr and "--anyway makes it all the same" in done.stderr
    Path("b.jsonl").write_text('{"prompt": "a red circle"}\n{"prompt": "a", "width": 6400, "height": 6400}\n')
    done = command("--batch", "b.jsonl", "--dry-run")
    assert done.exit_code == 3 and "line 2: 17 frames of 6400x6400" in done.stderr
    assert "estimated time of all: about" in done.stderr


def test_centuries_are_refused_at_once_in_python(tiny):
    with pytest.raises(InputError, match=r"6400x6400.*GenerateOptions\(anyway=True\)"):
        cogvideox.generate(tiny, GenerateOptions(prompt="a red circle", width=6400, height=6400))


def test_what_does_not_fit_is_refused_in_python(monkeypatch):
    monkeypatch.setattr(preflight, "available", lambda device: 100_000)
    options = GenerateOptions(steps=1, frames=9)
    with pytest.raises(InputError, match=r"GB are needed to decode, 0\.0001 GB are free.*anyway=True"):
        cogvideox.generate(golden_model(), options, **golden_text())
    cogvideox.generate(golden_model(), options.override(["anyway=true"]), **golden_text())


def test_a_flag_makes_what_is_estimated_not_to_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy = write_model_folder(tmp_path / "toy")
    words = ("a red circle", "--model", str(toy), "--frames", "1", "--steps", "1", "--memory-limit", "0.1MB")
    words += ("--out", "v.mp4")
    done = command(*words)
    assert done.exit_code == 2 and "--anyway makes it all the same" in done.stderr
    done = command(*words, "--anyway")
    assert done.exit_code == 0 and Path("v.mp4").is_file()


def test_a_limit_above_what_is_free_does_not_count(monkeypatch):
    from cogvideox.generation import job

    monkeypatch.setattr(preflight, "free_memory", lambda device: 4_000_000_000)
    with pytest.warns(UserWarning, match="only 4 GB are free"):
        assert job.limit_of(job.Job(memory_limit="64GB")) == 4_000_000_000
    assert job.limit_of(job.Job(memory_limit="64GB"), anyway=True) == 64_000_000_000
    assert job.limit_of(job.Job(memory_limit="1GB")) == 1_000_000_000


def test_a_long_run_is_told_in_python(tiny, monkeypatch):
    monkeypatch.setattr(preflight, "measured", lambda request: replace(SLOW, products=3e8, attention=3e8))
    monkeypatch.setattr(preflight, "SMALL", 0)
    monkeypatch.setattr(preflight, "LONGEST", 1e12)
    with pytest.warns(
        UserWarning, match=r"estimated time: about [\d,]+ minutes for 17 frames of 64x64 in 2 steps"
    ):
        cogvideox.generate(tiny, GenerateOptions(prompt="a red circle", steps=2))


def test_the_estimate_stands_before_the_work_and_in_the_dry_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("a red circle", "--out", "v.mp4")
    first = done.stderr.splitlines()[0]
    assert first.startswith("tiny: 17 frames of 64x64 in 8 steps; estimated: about ") and "GB of" in first
    plan = json.loads(command("a red circle", "--dry-run", "--json").stdout)["plan"]
    assert 0 < plan["seconds"] < 600


def test_the_work_is_that_of_the_real_networks():
    """The formulas against operators counted on the networks themselves."""
    count = benchmark("traffic").count
    network = TINY.transformer(TINY.spec.transformer.num_layers)
    with torch.device("meta"):
        x, words = (
            torch.empty(2, 16, 5, 8, 8),
            torch.empty(2, TINY.spec.text_tokens, TINY.spec.transformer.text_embed_dim),
        )
    real = count(lambda: network(x, words, torch.zeros(2, dtype=torch.long, device="meta")), fuse=False)
    step = efforts(TINY, 1)["denoise"]
    assert 0.8 < (step.products + step.attention) / real.flops < 1.25
    assert 0.5 < step.bytes / real.traffic < 2 and 0.5 < step.calls / real.calls < 2
    vae = TINY.vae()
    real = count(lambda: vae.decode(torch.empty(1, 16, 5, 8, 8, device="meta")), fuse=False)
    decode = efforts(TINY, 1)["decode"]
    assert 0.8 < decode.convolutions / real.flops < 1.5 and 0.5 < decode.bytes / real.traffic < 2


def test_time_grows_with_the_work():
    def seconds(steps: int = 50, **changes) -> float:
        return sum(estimate(replace(TINY, **changes), steps, SLOW).values())

    assert seconds(100) > 1.5 * seconds(50) > 1.2 * seconds(50, guided=False)
    assert seconds(height=128, width=128) > 3.5 * seconds()
    assert seconds(height=1024, width=1024) > 1000 * seconds()  # attention grows with the square


def test_the_estimate_is_of_the_order_of_processor_time(tiny):
    """Generous, for machines that do other work: the factor of two is measured by hand (docs/memory.md)."""
    request = replace(TINY, height=128, width=128)
    expected = sum(estimate(request, 4, measured(request)).values())
    options = GenerateOptions(prompt="a red circle", steps=4, height=128, width=128, seed=1)
    took = cogvideox.generate(tiny, options).manifest["run"]["seconds"]
    assert expected / 20 < took < 20 * expected


# how much memory there is


def system(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "max", "memory.current": "5"}, 8_000_000_000),
        ("0::/\n", {"memory.max": "3000000000", "memory.current": "1000000000"}, 2_000_000_000),
        ("0::/a/b\n", {"a/memory.max": "3000000000", "a/memory.current": "1000000000"}, 2_000_000_000),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "3000000000",
                "a/b/memory.current": "2000000000",
                "a/b/memory.stat": "anon 5\ninactive_file 500000000\n",
            },
            1_500_000_000,
        ),
        (
            "4:memory:/x/y\n0::/\n",
            {"memory/x/memory.limit_in_bytes": "1000000000", "memory/x/memory.usage_in_bytes": "400000000"},
            600_000_000,
        ),
        ("0::/a\n", {"a/memory.max": "10", "a/memory.current": "20"}, 0),
    ],
)
def test_limits_of_control_groups_count_at_every_level(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(device, "ROOT", tmp_path)
    monkeypatch.setattr(device, "_address_space", lambda: None)
    system(tmp_path, proc__meminfo="MemTotal: 9 kB\nMemAvailable: 7812500 kB\n", proc__self__cgroup=groups)
    for name, text in files.items():
        system(tmp_path / "sys/fs/cgroup", **{name.replace("/", "__"): text})
    assert available("cpu") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's here")
def test_a_limit_of_address_space_counts():
    code = (
        "import resource, torch; from cogvideox.device import available;"
        "before = available('cpu'); used = 1 << 33;"
        "resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY)); print(0 <= available('cpu') < used)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout == "True\n", done.stderr


def test_nothing_is_warned_of_a_short_run(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        video = cogvideox.generate(tiny, GenerateOptions(prompt="a red circle"))
    assert len(video) == tiny.spec.frames
