"""The planner of trainings: held against a real step's memory, counted in full, and at real sizes in seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from cogvideox.checkpoints.lora import add_lora
from cogvideox.cli import app
from cogvideox.parallel.shard import checkpoint_blocks
from cogvideox.presets import get_preset
from cogvideox.training.memory import TrainingPrediction, TrainRequest, variants
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.sizes import SizeSetting, latent_shape
from cogvideox.transformer import Transformer
from cogvideox.transformer.kernels import use_kernel
from cogvideox.transformer.position import Rotary

TINY = get_preset("tiny")
SAMPLES = [((16, 3, 12, 12), 32)] * 2
TOLERANCE = 0.1
"""Predicted and measured peaks of a step differ by less than this share of the measured one."""


def measured(request: TrainRequest) -> int:
    """Most bytes that torch had taken during a real step beside weights, as its profiler saw them."""
    network = Transformer(request.spec.transformer)
    if request.lora is not None:
        add_lora(network, request.lora.rank, request.lora.alpha, request.lora.targets)
    use_kernel(network, "torch-float32")
    if request.recompute:
        checkpoint_blocks(network.transformer_blocks)
    shape, text = request.samples[0]
    many = len(request.samples)
    clips, texts = torch.randn(many, *shape), torch.randn(many, text, request.spec.transformer.text_embed_dim)
    times = torch.zeros(many, dtype=torch.long)

    def step() -> None:
        for _ in range(min(request.micro_steps, 2)):
            network(clips, texts, times).square().mean().backward()

    step()  # caches and libraries are there afterwards
    network.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


LORA = LoraTuning(rank=8, base="float32")


@pytest.mark.parametrize(
    ("tuning", "again", "rows"),
    [(None, False, 1), (None, True, 2), (LORA, False, 2), (LORA, True, 1)],
    ids=["full", "full recomputed twice", "lora twice", "lora recomputed"],
)
def test_a_predicted_step_is_within_a_tenth_of_a_real_one(tuning, again, rows):
    request = TrainRequest(
        TINY,
        SAMPLES,
        micro_steps=rows,
        lora=tuning,
        recompute=again,
        bf16=False,
        device="cpu",
        pixels=(9, 96, 96),
    )
    predicted, real = TrainingPrediction(request).memory.step, measured(request)
    assert abs(predicted - real) < TOLERANCE * real, (predicted, real)


def test_weights_gradients_and_optimiser_are_those_of_the_network():
    network = Transformer(TINY.transformer)
    numbers = sum(weight.numel() for weight in network.parameters())
    full = TrainingPrediction(TrainRequest(TINY, SAMPLES, bf16=False, device="cpu")).memory
    assert (full.moved, full.gradients, full.optimiser, full.average) == (
        numbers, 4 * numbers, 8 * numbers, 4 * numbers,
    )  # fmt: skip
    tuning = LoraTuning(rank=8, base="bfloat16")
    moved = sum(weight.numel() for weight in add_lora(network, 8, None, tuning.targets))
    small = TrainingPrediction(TrainRequest(TINY, SAMPLES, lora=tuning, device="cpu")).memory
    assert small.moved == moved and full.weights // 2 < small.weights - 4 * moved + 1 < 0.6 * full.weights


def at_full_size(name: str, **how) -> TrainRequest:
    row = get_preset(name)
    shape = latent_shape(SizeSetting().resolved(row), row)
    return TrainRequest(row, [(shape, row.text_tokens)], pixels=(row.frames, row.height, row.width), **how)


def test_a_5b_is_planned_without_a_weight_and_every_saving_saves():
    lora = LoraTuning(rank=64, base="bfloat16")
    request = at_full_size("5b", lora=lora, recompute=True)
    found, plain = TrainingPrediction(request), TrainingPrediction(replace(request, recompute=False))
    byte = TrainingPrediction(replace(request, lora=LoraTuning(rank=64, base="int8")))
    assert 11e9 < found.memory.weights < 12e9 and 40e9 < found.memory.host < 42e9
    assert 5.5e9 < byte._weights[0] < 6.5e9
    assert found.memory.step * 4 < plain._step < 80e9
    assert 3e15 < found.flops * 4 < 5e15 and plain.flops < found.flops


def test_parts_of_the_weights_are_a_rank_s_share():
    full = TrainRequest(TINY, SAMPLES, recompute=True)
    one, eight = (TrainingPrediction(replace(full, shard=ranks)).memory for ranks in (1, 8))
    assert eight.optimiser == one.optimiser // 8 and eight.weights == one.weights // 8
    assert one.gathered == 0 < eight.gathered and eight.activations >= one.activations
    assert [how for how, _ in variants(full)][:2] == ["optim.ema=0", "optim.ema=0 mesh.shard=2"]


def test_a_plan_leaves_no_table_without_memory_behind():
    TrainingPrediction(TrainRequest(TINY, SAMPLES, device="cpu")).memory  # noqa: B018
    network = Transformer(TINY.transformer)
    assert isinstance(network.rotary, Rotary)
    with torch.no_grad():
        out = network(
            torch.randn(1, 16, 5, 16, 16), torch.randn(1, 32, 128), torch.zeros(1, dtype=torch.long)
        )
    assert type(out) is torch.Tensor and out.isfinite().all()


def cogvideox(*words: str, code: int = 0):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    return done


def test_the_verb_plans_a_training_and_says_what_would_fit():
    words = ["plan", "tiny", "--train", "lora", "--device", "cuda", "--card", "A100"]
    words += ["--frames", "9", "task.data.budget=352"]
    found = json.loads(cogvideox(*words, "--memory-limit", "40GB", "--json").stdout)
    assert found["fits"] and found["tokens"] == 224 and "A100" in found["seconds_stand_on"]
    told = cogvideox(*words, "--memory-limit", "20MB", code=2)
    assert "memory of the host" in told.stdout and "do not fit 0.02 GB" in told.stderr
    assert (
        "choose one of lora, finetune, inpaint" in cogvideox("plan", "tiny", "--train", "vae", code=2).stderr
    )
    assert "add --train" in cogvideox("plan", "tiny", "task.accumulation=2", code=2).stderr
    assert "is 8 processes" in cogvideox(*words, "mesh.shard=8", code=2).stderr


def test_a_dry_run_counts_the_clips_that_are_there_not_those_that_would_fit(tmp_path, monkeypatch):
    """6 clips of 352 tokens, rows of 1,760: an epoch is 2 micro-steps, of 5 and 1, so 4 of them hold 12 clips."""
    monkeypatch.chdir(tmp_path)
    cogvideox("world", "render", "--n", "6", "--out", "clips")
    words = (
        "train",
        "lora",
        "task.start=tiny-base",
        "task.data.folder=clips",
        "task.data.held_out=0",
        "steps=2",
    )
    shown = cogvideox(*words, "--dry-run").stdout
    assert "a step: 12 clips of the largest size, 4,224 tokens in 4 micro-steps" in shown
    assert "an epoch: 6 clips, 0.5 steps; 2 steps are 4 epochs" in shown


def test_a_dry_run_says_what_is_missing_and_what_a_run_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cogvideox("train", "lora", "--dry-run", code=2)
    assert "task.data.folder: not set" in done.stderr and "name: lora" in done.stdout
    for words in (
        "clips of the largest size, 7,040 tokens in 4 micro-steps",
        "memory of a process",
        "memory of the host",
    ):
        assert words in done.stdout
    done = cogvideox(
        "train", "lora", "task.start=runs/modle", "task.data.folder=nowhere", "--dry-run", code=2
    )
    assert "task.start and task.vae and task.text runs/modle: no such model" in done.stderr
    assert "not a folder; give one" in done.stderr and list(tmp_path.iterdir()) == []
    done = cogvideox("train", "world-t2v", "--dry-run", code=2)
    assert "run cogvideox train world-vae first" in done.stderr and "task.text=tiny" in done.stderr


def test_the_recipes_of_the_tiny_world_that_start_from_a_model_are_planned_too():
    """They read no folder; their clips are square."""
    plain = cogvideox("plan", "tiny", "--train", "world-inpaint", "--device", "cpu").stdout
    assert "tiny, world-inpaint" in plain and "17 frames of 64x64" in plain and "memory of a process" in plain
    shorter = (
        "--train",
        "world-control",
        "--device",
        "cpu",
        "--frames",
        "9",
        "--height",
        "32",
        "--width",
        "32",
    )
    assert "9 frames of 32x32" in cogvideox("plan", "tiny", *shorter).stdout
    error = cogvideox("plan", "tiny", *shorter[:-1], "64", code=2).stderr
    assert "height 32, width 64: the tiny world is square" in error
