"""Distillation: targets are the teacher's flow, only the student is taught, runs resume, results are read."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvideox.checkpoints import find_spec, load_model, save_model
from cogvideox.diffusion.hops import hop
from cogvideox.diffusion.timesteps import lean
from cogvideox.errors import ConfigError
from cogvideox.generation import generate
from cogvideox.generation.recommended import read_recommended
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion_batches import predict
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.distil import DistilTask, DistilTraining
from cogvideox.training.tasks.distil_compare import Comparison
from cogvideox.training.tasks.distil_methods import FoldGuidance, Progressive, TrajectoryMatching, passes
from cogvideox.training.tasks.distil_prompts import PromptFile
from cogvideox.training.tasks.distil_teacher import shared_copy
from cogvideox.world import caption, sample_scene

METHODS = {
    "guidance": FoldGuidance(guidance=3.5),
    "progressive": Progressive(steps=4, guidance=3.5),
    "tdm": TrajectoryMatching(times=(999, 665, 399), guidance=3.5),
}


pytestmark = pytest.mark.usefixtures("few_held_out")


def settings(cache: Path, method: str, **more) -> DistilTraining:
    return DistilTraining(
        start="tiny-base",
        cache=str(cache),
        clips=4,
        batch=2,
        samples=0,
        method=METHODS[method],
        **({"compared": 0} | more),
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
    starts = task._starts(torch.tensor([999, 10]))
    assert starts == [999, 249]
    x = task.levels.noised(batch, starts)
    target = task._targets(batch, x, starts)
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
    assert spec.guidance == 1 and find_spec("tiny-base").times == ()
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


def test_a_student_that_is_its_teacher_keeps_all_of_it(cache):
    """A teacher whose guidance is 1, beside itself at the same steps; and a student that stands still."""
    method = Progressive(steps=8)
    task = DistilTask(settings(cache, "progressive", compared=1).changed(method=method), 0, 1)
    (comparison,) = [each for each in task.measured if isinstance(each, Comparison)]
    assert len(comparison.times[0]) == 8 and len(comparison.times[1]) == 16
    comparison.times = (comparison.times[1], comparison.times[1])
    same = task.combine([task.measure_batch(task.module, index) for index in range(task.measure_batches)])
    assert [same[name] for name in ("kept_motion", "kept_spread", "kept_contrast")] == pytest.approx(
        [1, 1, 1], abs=1e-3
    )
    assert same["teacher_distance"] < 1e-3 and "held_out" in same
    for parameter in task.module.parameters():
        torch.nn.init.zeros_(parameter)
    still = comparison.figures([comparison.measure(task.module, 0)])
    assert still["teacher_distance"] > 0.3 and still["kept_spread"] != pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "drawn", [{"uniform": "explicit"}, {"uniform": "plain"}, {"uniform": "explicit", "intervals": 4}]
)
def test_training_times_lean_where_they_are_shifted_and_only_the_steps_that_draw_them(drawn, cache):
    even, leaning = (
        DistilTask(settings(cache, "progressive", **drawn, time_shift=shift), 0) for shift in (1.0, 3.0)
    )
    step = even.data.global_batch(5)
    evenly, leaned = even.times(5, step).double(), leaning.times(5, step).double()
    assert (leaned > evenly).all()
    assert ((leaned >= lean(evenly, 3.0).floor()) & (leaned <= lean(evenly + 1, 3.0))).all()
    for name, value in {"time_shift": 3.0, "intervals": 4, "uniform": "plain"}.items():
        with pytest.raises(
            ConfigError, match=f"task.{name}: tdm draws times on the student's own trajectory"
        ):
            settings(cache, "tdm", **{name: value})


def test_what_a_step_costs():
    assert passes(METHODS["guidance"], frozen=False) == 5 and passes(METHODS["guidance"], frozen=True) == 4
    assert (
        passes(METHODS["progressive"], frozen=False) == 7 and passes(Progressive(steps=4), frozen=False) == 5
    )
    assert passes(TrajectoryMatching(), frozen=False) == 14  # K + 10
    assert passes(TrajectoryMatching(), frozen=True) == 12


def prompts_file(folder: Path, count: int = 6) -> str:
    file = folder / "prompts.txt"
    file.write_text("\n\n".join(caption(sample_scene(1, index), 1, index) for index in range(count)) + "\n")
    return str(file)


@pytest.mark.parametrize("lora", [None, LoraTuning(rank=2)])
def test_prompts_alone_teach_a_student_of_few_steps(lora, cache, tmp_path):
    task = DistilTraining(
        start="tiny-base", cache=str(cache), batch=2, method=METHODS["tdm"], lora=lora, compared=1,
        prompts=PromptFile(file=prompts_file(tmp_path), frames=9, height=32, width=48, held_out=2),
    )  # fmt: skip

    def run(out: str) -> Run:
        return Run(
            name="prompts", out=str(tmp_path / out), task=task, steps=2, optim=OptimConfig(lr=1e-4, warmup=0),
            measure_every=10, save_every=1,
        )  # fmt: skip

    built = DistilTask(task, 0, 2)
    assert [built.data.train.clips.caption(0, 0), len(built.data.train.clips)] == [
        caption(sample_scene(1, 0), 1, 0),
        4,
    ]
    (sample,) = built.data.train.fixed([0])
    assert sample.noise.shape == (16, 3, 4, 6) and not sample.clean.any() and sample.text.any()
    assert set(built.measure(built.module)) == {
        "kept_motion",
        "kept_spread",
        "kept_contrast",
        "teacher_distance",
    }
    whole = train(run("whole"))
    train(run("parts"), stop_at=1)
    parts = train(run("parts"))
    for file in whole.rglob("*.safetensors"):  # the order of what stands in a header is chance
        again = load_file(parts / file.relative_to(whole))
        assert all(torch.equal(again[name], tensor) for name, tensor in load_file(file).items())
    if lora is None:
        spec = find_spec(whole)
        assert (spec.frames, spec.height, spec.width) == (9, 32, 48) and spec.times == METHODS["tdm"].times


def test_prompts_that_cannot_teach_are_refused(cache, tmp_path):
    few = PromptFile(file=prompts_file(tmp_path, 3))
    with pytest.raises(ConfigError, match="its targets lie on noised clips"):
        DistilTraining(start="tiny-base", method=METHODS["progressive"], prompts=few)
    with pytest.raises(ConfigError, match="leave one of them out"):
        DistilTraining(start="tiny-base", method=METHODS["tdm"], prompts=few, data={"folder": "clips"})
    with pytest.raises(ConfigError, match="task.clips: speaks of the tiny world"):
        DistilTraining(start="tiny-base", method=METHODS["tdm"], prompts=few, clips=7)
    with pytest.raises(ConfigError, match="3 prompts, of which 4 are held out"):
        DistilTask(
            DistilTraining(start="tiny-base", cache=str(cache), method=METHODS["tdm"], prompts=few), 0, 1
        )
    with pytest.raises(ConfigError, match="of kind i2v"):
        DistilTask(
            DistilTraining(start="tiny-i2v", cache=str(cache), method=METHODS["tdm"], prompts=few), 0, 1
        )
