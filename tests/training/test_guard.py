"""Bad steps are skipped by a branch, counted, and do not stop a run unless they go on."""

import pytest
import torch

from cogvideox.errors import NumericsError
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import train
from cogvideox.training.step_guard import Guard, GuardConfig
from support.training_line import run


@pytest.mark.parametrize("where", ["data", "loss"])
def test_a_bad_step_is_as_if_it_had_not_been(where, tmp_path):
    train(run(tmp_path / "bad", bad=(3,), where=where), stop_at=4)
    train(run(tmp_path / "good"), stop_at=3)
    bad, good = latest_state(tmp_path / "bad"), latest_state(tmp_path / "good")
    assert all(torch.equal(bad["module"][name], value) for name, value in good["module"].items())
    assert all(torch.equal(bad["average"]["values"][n], v) for n, v in good["average"]["values"].items())
    moments = [one["optimizers"][0]["state"][0]["exp_avg"] for one in (bad, good)]
    assert torch.equal(*moments) and bool(moments[0].isfinite().all())
    assert bad["guard"]["skipped"] == 1


def test_a_gradient_that_is_not_finite_is_seen_though_the_loss_is_fine(tmp_path):
    with pytest.raises(NumericsError, match="gradient norm nan, 3 steps in a row"):
        train(run(tmp_path, bad=(1, 2, 3), where="gradient"))
    assert latest_state(tmp_path)["step"] == 3


def test_the_run_goes_on_when_bad_steps_are_apart_and_stops_when_they_follow_each_other(tmp_path):
    train(run(tmp_path / "apart", bad=(0, 2, 4)))
    with pytest.raises(NumericsError, match="step 4: the loss is inf.*3 steps in a row"):
        train(run(tmp_path / "row", bad=(2, 3, 4)))


def test_the_count_of_bad_steps_survives_a_stop(tmp_path):
    train(run(tmp_path, bad=(2, 3, 4)), stop_at=4)
    with pytest.raises(NumericsError, match="3 steps in a row"):
        train(run(tmp_path, bad=(2, 3, 4)))


def test_a_spike_is_skipped_and_a_new_level_is_accepted():
    guard = Guard(GuardConfig(sigmas=6, window=16, accept_after=3))
    draw = torch.Generator().manual_seed(0)
    for step in range(20):
        assert guard.allows(step, 1 + 0.01 * float(torch.randn((), generator=draw)), 1.0 + 0.01 * (step % 3))
    assert not guard.allows(20, 5.0, 1.0)
    assert guard.allows(21, 1.0, 1.0)
    answers = [guard.allows(22 + n, 5.0, 1.0) for n in range(5)]
    assert answers == [False, False, False, True, True]
    other = Guard(guard.config)
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()
