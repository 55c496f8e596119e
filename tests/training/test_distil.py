"""Distillation: targets are the teacher's flow, only the student is taught, runs resume, results are read."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogvideox.checkpoints import find_spec, load_model, save_model
from cogvideox.diffusion.hops import hop
from cogvideox.errors import ConfigError
from cogvideox.generation import generate
from cogvideox.generation.recommended import read_recommended
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion_batches import predict
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.distil import (
    DistilTask,
    DistilTraining,
    FoldGuidance,
    Progressive,
    TrajectoryMatching,
    shared_copy,
)

METHODS = {
    "guidance": FoldGuidance(guidance=3.5),
    "progressive": Progressive(steps=4, guidance=3.5),
    "tdm": TrajectoryMatching(times=(999, 665, 399), guidance=3.5),
}


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Four held-out clips instead of 64."""
    monkeypatch.setattr("cogvideox.training.tasks.diffusion_data.HELD_OUT_CLIPS", 4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("latents")


def settings(cache: Path, method: str, **more) -> DistilTraining:
    return DistilTraining(
        start="tiny", cache=str(cache), clips=4, batch=2, samples=0, method=METHODS[method], **more
    )


def test_a_start_is_the_teacher():
    with pytest.raises(ConfigError, match="start null"):
        DistilTraining(method=METHODS["guidance"])
    with pytest.raises(ConfigError, match="let the times fall"):
        TrajectoryMatching(times=(399, 999))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lora", [None, LoraTuning(rank=2)])
def test_only_the_student_and_its_fake_score_learn(method, lora, cache):
    task = DistilTask(settings(cache, method, lora=lora), 0, 1)
    before = copy.deepcopy(task.teacher.network.state_dict())
    losses = task.losses(0)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    trained = [p for p in task.module.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in task.teacher.network.parameters())
    if method == "tdm":
        fake = [p for p in task.critic.parameters() if p.requires_grad]
        assert any(p.grad is not None and p.grad.any() for p in fake)
        assert not {id(p) for p in fake} & {id(p) for p in trained}
    for group in (trained, *([fake] if method == "tdm" else [])):
        torch.optim.SGD(group, lr=1e-2).step()
    after = task.teacher.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    again = task.losses(0)["loss"]  # drawn from the seed and the number of the step alone
    torch.testing.assert_close(again, task.losses(0)["loss"], rtol=0, atol=0)


def test_an_adapter_shares_the_weights_under_it(cache):
    task = DistilTask(settings(cache, "tdm", lora=LoraTuning(rank=2)), 0, 1)
    base = {p.data_ptr() for p in task.teacher.network.parameters()}
    for network in (task.module, task.critic):
        frozen = [p for p in network.parameters() if not p.requires_grad]
        assert frozen and {p.data_ptr() for p in frozen} <= base


def test_folded_guidance_is_what_two_branches_say(cache):
    """The error of a student that is the teacher, against its guided velocity, is (g - 1) times the pull."""
    task = DistilTask(settings(cache, "guidance"), 0, 1)
    clips, samples = task.data.of_micro_step(0)
    batch = task.data.train.training(clips, samples)
    times = [700, 300]
    x = task.levels.noised(batch, times)
    plain = [replace(sample, text=task.data.train.texts([""])[0]) for sample in batch]
    with torch.no_grad():
        v = predict(task.module, batch, x, torch.tensor(times))
        none = predict(task.module, plain, x, torch.tensor(times))
    expected = torch.stack([(2.5 * (a - b)).square().mean() for a, b in zip(v, none, strict=True)])
    found = task._errors(task.module, batch, torch.tensor(times))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_progressive_step_lands_where_two_steps_of_the_teacher_do(cache):
    task = DistilTask(settings(cache, "progressive"), 0, 1)
    batch = task.data.train.training(*task.data.of_micro_step(0))
    starts, target, x = task._two_steps_as_one(task.config.method, batch, torch.tensor([999, 10]))
    assert starts == [999, 249]
    grid = task.schedule.timesteps(8)
    of, teacher = task.levels.of, task.teacher
    for clip, (start, middle, end) in enumerate([(999, grid[1], grid[2]), (249, grid[7], None)]):
        one, here = [batch[clip]], [x[clip]]
        half = [hop(here[0], teacher(one, here, [start])[0], of(start), of(middle))]
        there = hop(half[0], teacher(one, half, [middle])[0], of(middle), of(end))
        torch.testing.assert_close(
            hop(here[0], target[clip], of(start), of(end)), there, atol=1e-4, rtol=1e-4
        )
        assert target[clip].isfinite().all()


def test_matching_leaves_a_student_alone_whose_videos_the_teacher_knows(cache):
    """With the teacher's unguided score as fake and as real nothing pulls, but for rounding."""

    def pull(guidance: float) -> float:
        method = METHODS["tdm"].changed(guidance=guidance)
        task = DistilTask(settings(cache, "tdm").changed(method=method), 0, 1)
        clips, samples = task.data.of_micro_step(0)
        student, _ = task._matched(method, task.data.train.training(clips, samples), samples)
        student.sum().backward()
        return (
            sum(float(p.grad.square().sum()) for p in task.module.parameters() if p.grad is not None) ** 0.5
        )

    assert pull(1.0) < 0.02 * pull(3.5)


def test_a_shared_copy_takes_no_memory_and_no_adapter():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    twin = shared_copy(network)
    assert twin[0] is not network[0] and twin[0].weight is network[0].weight


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_and_its_result_says_how_it_is_sampled(method, cache, tmp_path):
    def run(out: str) -> Run:
        return Run(
            name="distil", out=str(tmp_path / out), task=settings(cache, method), steps=2,
            optim=OptimConfig(lr=1e-4, warmup=0), measure_every=10, save_every=1,
        )  # fmt: skip

    whole = train(run("whole"))
    train(run("parts"), stop_at=1)
    parts = train(run("parts"))
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert (whole / file).read_bytes() == (parts / file).read_bytes()
    spec = find_spec(whole)
    assert spec.guidance == 1 and find_spec("tiny").times == ()
    if method != "guidance":
        times = (999, 665, 399) if method == "tdm" else (999, 749, 499, 249)
        assert spec.times == times and spec.sampler == "ddim"
        model = load_model(whole)
        made = generate(model, "a red circle", seed=0)  # nobody asks for steps
        assert made.manifest["run"]["times"] == list(times)
        assert made.manifest["run"]["guidance"] == [1.0] * len(times)
        assert len(generate(model, "a red circle", seed=0, steps=2).manifest["run"]["times"]) == 2
        saved = save_model(model, tmp_path / "again")
        assert find_spec(saved).times == times


def test_an_adapter_says_how_it_is_sampled(cache, tmp_path):
    run = Run(
        name="distil", out=str(tmp_path / "run"), task=settings(cache, "tdm", lora=LoraTuning(rank=2)), steps=1,
        optim=OptimConfig(lr=1e-4, warmup=0), measure_every=10, save_every=1,
    )  # fmt: skip
    found = read_recommended(train(run))
    assert (found.times, found.sampler, found.guidance, found.scale) == ((999, 665, 399), "ddim", 1, 1)
