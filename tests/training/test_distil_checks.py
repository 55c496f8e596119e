"""What distillation and its critic refuse: teachers that the method does not fit, sizes, settings without effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cogvideox.checkpoints import find_spec, load_model, save_model
from cogvideox.errors import ConfigError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.training.config import Run, TrainConfig
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.preview import preview
from cogvideox.training.recipes import recipe
from cogvideox.training.sequence import train_in_order
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.distil import DistilTask, DistilTraining
from cogvideox.training.tasks.distil_compare import Comparison
from cogvideox.training.tasks.distil_methods import (
    FoldGuidance,
    Progressive,
    TrajectoryMatching,
    check_teacher,
)
from cogvideox.training.tasks.distil_prompts import PromptFile
from cogvideox.training.trainer import Trainer
from support.training_line import Line, LineTask
from support.training_line import run as line

pytestmark = pytest.mark.usefixtures("few_held_out")


def a_run(out: Path, task: DiffusionTraining, **more) -> Run:
    optim = OptimConfig(lr=1e-4, warmup=0)
    quick = {"steps": 2, "measure_every": 10, "save_every": 1} | more
    return Run(name="distil", out=str(out), task=task, optim=optim, **quick)


def settings(cache: Path, **more) -> DistilTraining:
    usual = {"start": "tiny-base", "cache": str(cache), "clips": 4, "batch": 2, "samples": 0, "compared": 0}
    return DistilTraining(**(usual | more))


def prompts_file(folder: Path, count: int = 6) -> str:
    file = folder / "prompts.txt"
    file.write_text("\n".join(f"a red circle moves {number}" for number in range(count)))
    return str(file)


@pytest.mark.parametrize(
    "start, method, told",
    [
        ("tiny-base", Progressive(steps=16), "guidance null: tiny-base is made for guidance 2"),
        (
            "tiny",
            Progressive(steps=4, guidance=2),
            "guidance 2: tiny is made for guidance 1, .*guidance=null",
        ),
        ("tiny", FoldGuidance(guidance=2), "guidance 2: tiny is made for guidance 1, .*guidance=1"),
        ("tiny", TrajectoryMatching(guidance=1), "task.start tiny: tdm asks its teacher at every time"),
        ("tiny", Progressive(steps=3), "steps 3: asks the teacher for 6 steps, .* set task.method.steps=4"),
    ],
)
def test_a_method_that_does_not_fit_its_teacher_is_refused_before_weights_are_read(
    tmp_path, cache, start, method, told
):
    run = a_run(tmp_path / "run", settings(cache, start=start, method=method))
    with pytest.raises(ConfigError, match=told):
        train(run)
    assert not (tmp_path / "run" / "run.yaml").exists()
    assert any(told.split(":")[0] in problem for problem in preview(run).problems)


def test_methods_that_fit_their_teachers_are_let_through():
    base, tiny = find_spec("tiny-base"), find_spec("tiny")
    for method in (Progressive(steps=16, guidance=2), Progressive(steps=16, guidance=1)):
        check_teacher(method, base, "tiny-base")
    check_teacher(FoldGuidance(guidance=2), base, "tiny-base")
    check_teacher(TrajectoryMatching(guidance=2), base, "tiny-base")
    check_teacher(Progressive(steps=4), tiny, "tiny")
    with pytest.raises(ConfigError, match="start from its teacher"):
        check_teacher(Progressive(steps=4), replace(tiny, times=tiny.times[:7]), "odd")


def test_a_teacher_of_few_steps_is_asked_at_its_own_times(tmp_path, cache):
    model = load_model("tiny")
    own = (999, 900, 700, 650, 500, 300, 200, 100)
    model.spec = replace(model.spec, times=own)
    teacher = save_model(model, tmp_path / "teacher")
    task = DistilTask(settings(cache, start=str(teacher), method=Progressive(steps=4), compared=1), 0, 1)
    (comparison,) = [each for each in task.measured if isinstance(each, Comparison)]
    assert [tuple(times) for times in comparison.times] == [own[::2], own]
    assert task._starts(torch.tensor([999, 10])) == [999, 200]


@pytest.mark.parametrize("count", [16, 48])
def test_the_times_a_student_is_taught_are_those_it_is_sampled_at(cache, count):
    task = DistilTask(settings(cache, method=Progressive(steps=count, guidance=2)), 0, 1)
    assert task.sampling["times"] == tuple(task.schedule.timesteps(2 * count)[::2])


def test_a_changed_teacher_is_refused_when_a_run_goes_on(tmp_path, cache):
    model = load_model("tiny-base")
    teacher = save_model(model, tmp_path / "teacher")
    run = a_run(tmp_path / "run", settings(cache, start=str(teacher), method=FoldGuidance(guidance=2)))
    train(run, stop_at=1)
    with torch.no_grad():
        next(model.transformer.parameters()).mul_(1.2)
    save_model(model, teacher, overwrite=True)
    with pytest.raises(ConfigError, match="start"):
        train(run)


def test_plain_training_keeps_what_its_start_is_sampled_with_and_warns(tmp_path, cache):
    task = DiffusionTraining(start="tiny", cache=str(cache), clips=4, batch=2, samples=0)
    with pytest.warns(UserWarning, match="task.start tiny: was distilled to 8 steps"):
        spec = find_spec(train(a_run(tmp_path / "run", task, steps=1)))
    own = find_spec("tiny")
    assert (spec.times, spec.guidance, spec.sampler) == (own.times, 1.0, own.sampler)


@pytest.mark.parametrize("size, told", [({"height": 36}, "height 36"), ({"frames": 10}, "frames 10")])
def test_prompts_are_refused_at_sizes_that_no_video_has(tmp_path, cache, size, told):
    prompts = PromptFile(file=prompts_file(tmp_path), held_out=1, **size)
    task = DistilTraining(
        start="tiny-base", cache=str(cache), method=TrajectoryMatching(guidance=2), prompts=prompts
    )
    with pytest.raises(ConfigError, match=f"task.prompts.{told}"):
        train(a_run(tmp_path / "run", task))


def test_prompts_train_without_a_comparison(tmp_path, cache):
    prompts = PromptFile(file=prompts_file(tmp_path), held_out=1)
    task = DistilTraining(
        start="tiny-base", cache=str(cache), batch=2, method=TrajectoryMatching(times=(999, 500), guidance=2),
        prompts=prompts, compared=0,
    )  # fmt: skip
    assert (train(a_run(tmp_path / "run", task, steps=1)) / "model_index.json").is_file()


def test_scores_are_compared_above_the_end_of_every_step():
    assert TrajectoryMatching(times=(999,)).times == (999,)
    for times, top, least in (((999, 990, 100), 980, 990), ((500,), 20, 20), ((999, 500), 500, 500)):
        with pytest.raises(ConfigError, match=f"top {top}: .* set more than {least}"):
            TrajectoryMatching(times=times, top=top)


class Judged(LineTask):
    """A line with a critic, whose loss is its own."""

    def __init__(self, config: Line) -> None:
        super().__init__(config)
        self.critic = nn.Linear(3, 1)

    def losses(self, step: int):
        losses = super().losses(step)
        return losses | {"loss": losses["loss"] + self.critic.weight.square().sum()}


def test_a_critic_follows_the_rate_curve_of_its_own_optimiser(tmp_path):
    def trained(**critic) -> torch.Tensor:
        config: TrainConfig = line(tmp_path, steps=4).changed(critic=OptimConfig(lr=0.1, **critic))
        trainer = Trainer(config, Judged(config.task))
        trainer.fit(3)
        assert trainer.task.critic is not None
        return trainer.task.critic.weight.detach().clone()

    begun = Judged(line(tmp_path).task).critic.weight
    at_once, slowly = trained(warmup=0), trained(warmup=3000)
    assert (at_once - begun).abs().max() > 0.1 and (slowly - begun).abs().max() < 1e-3


def test_settings_of_a_critic_that_change_nothing_are_refused():
    with pytest.raises(ConfigError, match="critic: this run of distil trains none"):
        recipe("distil").override(["critic={lr: 5.0}"])
    for setting in ("critic.ema=0.9", "critic={lr: 1e-4, ema: 0.9}"):
        with pytest.raises(ConfigError, match="critic.ema: a critic is not averaged"):
            recipe("distil-lora").override([setting])
    changed = recipe("distil-lora").override(["critic.lr=1e-3"])
    assert isinstance(changed, Run) and changed.critic is not None and changed.critic.lr == 1e-3


def test_a_critic_is_not_trained_beside_sharded_weights(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(DataParallel, "sharded", True, raising=False)
    monkeypatch.setattr(DataParallel, "__init__", lambda self, *_: None)
    task = settings(cache, method=TrajectoryMatching(guidance=2))
    with pytest.raises(ConfigError, match="trains a critic too, which is not sharded; use mesh.data"):
        train(a_run(tmp_path / "run", task))


@pytest.mark.parametrize(
    "setting, told",
    [
        ("stages.3.run.out=elsewhere", "stages.3.run.out: a chain names its runs"),
        ("stages.3.run.name=mine", "stages.3.run.name: a chain names its runs"),
        ("stages.3.run.task.start=tiny-base", "task.start: is the result of the run coarse"),
        ("stages.3.run.task.vae=tiny", "task.vae: is the result of the run vae"),
        ("stages.5.run.task.object_weight=2", "a student learns what its teacher says"),
        ("stages.6.run.critic={lr: 1}", "critic: this run of distil trains none"),
    ],
)
def test_settings_that_a_chain_decides_are_refused(setting, told):
    with pytest.raises(ConfigError, match=told):
        recipe("tiny").override([setting])


def test_a_chain_takes_another_start_and_its_lineage_says_which(tmp_path, cache):
    chain = recipe("distil-tiny").override(
        [f"out={tmp_path / 'chain'}", "stages.0.run.task.start=tiny-base"]
        + [
            f"stages.{number}.run.{setting}"
            for number in (0, 1)
            for setting in (
                "steps=1", "task.clips=4", "task.batch=2", "task.samples=0", "task.compared=0", f"task.cache={cache}",
                "optim.name=adamw",
            )
        ]
    )  # fmt: skip
    train_in_order(chain)
    lineage = (tmp_path / "chain" / "lineage.json").read_text()
    assert '"tiny-base"' in lineage and lineage.count('"steps-16"') == 2
