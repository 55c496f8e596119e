"""Students that learn the last detail from clips, not from their teacher: ``task.truth_below``."""

from __future__ import annotations

import pytest
import torch

from cogvideox.checkpoints import find_spec
from cogvideox.checkpoints.folders import read_training
from cogvideox.errors import ConfigError
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import recipe
from cogvideox.training.tasks.diffusion_batches import velocity_errors
from cogvideox.training.tasks.distil import DistilTask, DistilTraining
from cogvideox.training.tasks.distil_methods import FoldGuidance, Progressive, TrajectoryMatching

pytestmark = pytest.mark.usefixtures("few_held_out")
HALF = Progressive(steps=4, guidance=2.0)  # times 999, 749, 499, 249
ITSELF = FoldGuidance(guidance=1.0)


def task(cache, **more) -> DistilTask:
    usual = {"start": "tiny-base", "method": HALF, "truth_below": 500, "cache": str(cache), "clips": 2}
    usual |= {"batch": 2, "samples": 0, "compared": 0}
    return DistilTask(DistilTraining(**(usual | more)), 0, 1)


def test_clips_teach_below_and_the_teacher_above(cache):
    made, taught = task(cache), task(cache, truth_below=0)
    clips, samples = made.data.of_micro_step(0)
    batch = made.data.train.training(clips, samples)
    low, high = torch.tensor([499, 249]), torch.tensor([999, 749])
    truth = velocity_errors(made.module, made.schedule, batch, low)
    assert torch.equal(made._errors(made.module, batch, low), truth)
    assert not torch.isclose(taught._errors(taught.module, batch, low), truth, rtol=1e-3).any()
    assert torch.equal(made._errors(made.module, batch, high), taught._errors(taught.module, batch, high))
    mixed = made._errors(made.module, batch, torch.tensor([749, 249]))
    torch.testing.assert_close(mixed[1], truth[1])
    torch.testing.assert_close(mixed[0], taught._errors(taught.module, batch, torch.tensor([749, 749]))[0])


def test_objects_count_more_where_clips_teach(cache):
    made = task(cache, object_weight=3.0)
    clips, samples = made.data.of_micro_step(0)
    batch = made.data.train.training(clips, samples)
    weights = made.scenes.weights(clips, 3.0)
    low, high = torch.tensor([499, 249]), torch.tensor([999, 749])
    expected = velocity_errors(made.module, made.schedule, batch, low, weights)
    assert torch.equal(made._errors(made.module, batch, low, weights), expected)
    plain = made._errors(made.module, batch, high)
    assert torch.equal(made._errors(made.module, batch, high, weights), plain)
    times = made.times(0, samples)
    total = made._errors(made.module, batch, times, weights).mean()
    torch.testing.assert_close(made.losses(0)["loss"], total)


def test_a_student_can_be_its_own_teacher(cache, tmp_path):
    """Above, a model that teaches itself has nothing to learn; its times are those it knows, and stay its own."""
    config = task(cache, start="tiny", method=ITSELF, truth_below=375).config
    made = DistilTask(config, 0, 1)
    batch = made.data.train.training(*made.data.of_micro_step(0))
    assert made._starts(torch.tensor([999, 880, 870, 10])) == [999, 999, 874, 124]
    assert made._errors(made.module, batch, torch.tensor([999, 499])).max() < 1e-10
    assert made._errors(made.module, batch, torch.tensor([374, 124])).min() > 1e-4
    run = Run(
        name="t", out=str(tmp_path / "run"), task=config, steps=1, optim=OptimConfig(lr=1e-4), measure_every=9
    )
    own, spec = find_spec("tiny"), find_spec(folder := train(run))
    assert (
        read_training(folder)["inputs"]["start"] == "tiny"
    )  # by name: where the package lies is nobody's business
    assert (spec.times, spec.guidance, spec.sampler) == (own.times, own.guidance, own.sampler)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"truth_below": 249}, "task.truth_below 249: the student's lowest time is 249, so it would learn nothing"),
        ({"start": "tiny", "method": ITSELF, "truth_below": 100}, "truth_below 100: the student's lowest time is 124"),
        ({"method": TrajectoryMatching(), "truth_below": 400}, "truth_below.*tdm draws times on the student's own"),
        ({"truth_below": 0, "object_weight": 2.0}, "object_weight.*what its teacher says.*or set task.truth_below"),
        ({"truth_below": 1000}, "less than 1000"),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_refused(cache, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        config = DistilTraining(
            **({"start": "tiny-base", "method": HALF, "cache": str(cache), "clips": 2} | more)
        )
        config.check(out=tmp_path, precision="fp32")


def test_the_shipped_recipe_learns_its_least_noisy_time_from_clips():
    stages = dict(recipe("tiny").named_runs())
    last = [run.task for run in stages.values()][-1]
    assert last.method.steps == 8 and last.truth_below == 200 and last.object_weight == 3.0
    assert sorted(t for t in find_spec("tiny").times if t < last.truth_below) == [124]
