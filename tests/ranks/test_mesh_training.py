"""A run whose weights and clips are shared by several processes is the run of one, and goes on on another number."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cogvideox.checkpoints.diffusers import load_transformer
from cogvideox.data.clips import ClipSize
from cogvideox.errors import ConfigError
from cogvideox.parallel.mesh import MeshConfig
from cogvideox.parallel.shard import SavedShards
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.vae import CropPhase, VAETraining
from cogvideox.vae import VAEConfig
from support.clip_folders import write_layout
from support.dying import die_at_operation
from support.models import write_model_folder
from support.processes import together

STEPS, KILLS = 3, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A toy model, and clips of 9 and 17 frames and pictures."""
    root = tmp_path_factory.mktemp("mesh")
    write_model_folder(root / "toy")
    write_layout(root / "clips", "stems", count=7, frames=(9, 17), size=48, images=3)
    return root


def run(place: Path, out: Path, mesh: dict | None = None, accumulation: int = 4, **settings) -> TrainConfig:
    toy, size = str(place / "toy"), ClipSize(frames=17, least_frames=9, short_side=32)
    data = FolderData(folder=str(place / "clips"), size=size, budget=80, held_out=0.2)
    task = DiffusionTraining(
        start=toy,
        vae=toy,
        text=toy,
        cache=str(place / "cache"),
        data=data,
        accumulation=accumulation,
        samples=3,
        sample_steps=2,
    )
    optim = OptimConfig(lr=1e-3, eps=1e-4, warmup=0, ema=0.9)  # a small eps would turn rounding into steps
    values = dict(task=task, optim=optim, save_every=1, log_every=1, measure_every=STEPS, sample_every=STEPS)
    values |= dict(background=True, mesh=MeshConfig(**(mesh or {})), peak_tflops=0.001)
    return TrainConfig(name="mesh", out=str(out), steps=STEPS, **(values | settings))


def go_on(place: Path, out: Path, mesh: dict, stop: int, **settings) -> None:
    train(run(place, out, mesh, **settings), stop_at=stop)


def in_bf16(place: Path, out: Path, mesh: dict) -> None:
    go_on(place, out, mesh, STEPS, precision="bf16")


def refusals(place: Path, out: Path) -> list[str]:
    vae = VAEConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=2)
    phase = CropPhase(until=4, frames=9, size=16, batch=1)
    other = VAETraining(vae=vae, phases=(phase,), size=16, frames=9, accumulation=2)
    two = {"shard": 2}
    configs = [
        run(place, out, {"shard": 3}),
        run(place, out, two, accumulation=3),
        run(place, out, two, reduce="exact"),
        run(place, out, two, optim=OptimConfig(name="muon")),
        run(place, out, two, task=other, sample_every=None),
        run(place, out.parent / "first", two, seed=1),
    ]
    told = []
    for config in configs:
        try:
            train(config)
        except ConfigError as error:
            told.append(str(error))
        dist.barrier()
    return told


def die_or_end(place: Path, out: Path, mesh: dict, rank: int, die_at: int, mark: Path) -> None:
    """Train, but one rank dies at its ``die_at``-th operation of the file system."""
    if dist.get_rank() == rank:
        die_at_operation(out, die_at, mark)
    train(run(place, out, mesh))


def bits(out: Path) -> dict[str, bytes]:
    return {name: value.contiguous().numpy().tobytes() for name, value in values(out).items()}


def values(out: Path) -> dict[str, torch.Tensor]:
    state = latest_state(out)
    assert state is not None and state["step"] == STEPS
    found = {f"module.{name}": value for name, value in state["module"].items()}
    found |= {f"average.{name}": value for name, value in state["average"]["values"].items()}
    for number, moments in state["optimizers"][0]["state"].items():
        found |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return {name: value.whole() if isinstance(value, SavedShards) else value for name, value in found.items()}


def held_out(out: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return next(
        {k: v for k, v in row.items() if k.startswith("held_out")} for row in rows if "held_out" in row
    )


@pytest.mark.timeout(600)
def test_one_process_then_copies_in_parts_then_shared_clips_end_as_one(place, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    train(run(place, alone))
    train(run(place, shared), stop_at=1)
    together(4, go_on, place, shared, {"data": 2, "shard": 2}, 2)
    together(4, go_on, place, shared, {"shard": 2, "context": 2}, STEPS)
    expected, found = values(alone), values(shared)
    assert expected.keys() == found.keys()
    far = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert max(far.values()) <= 1e-5, max(far.items(), key=lambda item: item[1])
    newest = shared / f"state-{STEPS:08d}"
    assert {file.name.split("-")[1] for file in newest.glob("tensors-*")} == {
        f"{rank:05d}" for rank in range(4)
    }
    assert (alone / "ledger.jsonl").read_bytes() == (shared / "ledger.jsonl").read_bytes()
    assert held_out(shared) == pytest.approx(held_out(alone), abs=1e-5)
    first = json.loads((alone / "metrics.jsonl").read_text().splitlines()[0])
    assert first["mfu"] == pytest.approx(first["gflops_per_second"], rel=1e-2)  # of 1 GFLOP a second
    for out in (alone, shared):
        videos = (out / "samples" / f"{STEPS:08d}").glob("*.mp4")  # of the two clips that are held out
        assert sorted(file.name for file in videos) == ["0.mp4", "1.mp4"]
    one, many = (load_transformer(out / "model", dtype="float32") for out in (alone, shared))
    pairs = zip(one.parameters(), many.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in pairs)  # stored in float16


@pytest.mark.parametrize(
    "mesh", [{"data": 2}, {"shard": 2}, {"context": 2}], ids=lambda mesh: next(iter(mesh))
)
def test_in_bfloat16_processes_end_near_one(mesh, place, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    in_bf16(place, alone, {})
    together(2, in_bf16, place, shared, mesh)
    expected, found = values(alone), values(shared)
    moved = [name for name in expected if name.startswith("module.")]
    far = {name: float((found[name] - expected[name]).abs().max()) for name in moved}
    assert max(far.values()) <= (0 if "data" in mesh else 2e-3), max(far.items(), key=lambda item: item[1])
    assert (alone / "ledger.jsonl").read_bytes() == (shared / "ledger.jsonl").read_bytes()


@pytest.mark.timeout(600)
def test_ranks_killed_inside_saves_and_outside_end_with_the_same_bits(place, tmp_path):
    draw, mark, mesh = random.Random(1), tmp_path / "inside", {"shard": 2}
    whole = tmp_path / "whole"
    together(2, die_or_end, place, whole, mesh, 0, 10**9, mark)
    kills = inside = runs = 0
    while kills < KILLS or not inside:
        runs += 1
        out = tmp_path / f"run{runs}"
        while True:
            mark.unlink(missing_ok=True)
            rank, die_at = draw.randrange(2), draw.randrange(1, 150)
            try:
                together(2, die_or_end, place, out, mesh, rank, die_at, mark)
                break
            except AssertionError:
                kills, inside = kills + 1, inside + (mark.read_text() == "inside")  # no mark: it was no death
        assert bits(out) == bits(whole)
        assert (out / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
        assert (out / "model" / "training.json").is_file()
        assert not list(out.glob(".*")), "nothing half-written is left"
    print(f"{kills} deaths of one of two ranks, {inside} of them inside a save, {runs} runs")


def test_what_cannot_be_shared_is_refused(place, tmp_path):
    train(run(place, tmp_path / "first"), stop_at=1)  # fills the cache
    for rank, told in enumerate(together(2, refusals, place, tmp_path / "out")):
        mesh, accumulation, reduce, muon, kind, seed = told
        assert ("the first process of this run" if rank else "other settings (seed: 0 -> 1)") in seed
        assert "is 3 processes, started: 2" in mesh
        assert "accumulation 3" in accumulation and "a multiple of 2" in accumulation
        assert "reduce exact" in reduce and "muon" in muon and "task vae" in kind
    assert not any((tmp_path / "out").glob("*"))
