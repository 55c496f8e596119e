"""A run on several processes is the run of one: the same calls in the same order, the same weights."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cogvideox.errors import ConfigError, OutputError
from cogvideox.parallel import data_parallel
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.vae import CropPhase, Gan, VAETraining
from cogvideox.vae import VAEConfig
from cogvideox.vae.losses import CriticConfig
from support.processes import together

VAE = VAEConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=2)


def run(out: Path, accumulation: int = 5, critic: bool = True, **settings) -> TrainConfig:
    """Four steps of five calls each, which neither 2 nor 4 ranks divide; the critic begins at the second."""
    task = VAETraining(
        vae=VAE,
        phases=(CropPhase(until=4, frames=9, size=16, batch=1),),
        size=16,
        frames=9,
        accumulation=accumulation,
        gan=Gan(start=1, critic=CriticConfig(width=4, most=4, stages=1, time_stages=1)) if critic else None,
    )
    optim = OptimConfig(lr=1e-3, warmup=0)
    return TrainConfig(
        name="test", task=task, out=str(out), steps=4, optim=optim, save_every=1, log_every=1, **settings
    )


def go_on(out: Path, stop: int, accumulation: int = 5, reduce: str = "fast", critic: bool = True) -> str:
    """Steps until ``stop``, together with the other ranks."""
    try:
        train(run(out, accumulation, critic, reduce=reduce), stop_at=stop)
    except ConfigError as error:
        return str(error)
    finally:
        dist.barrier()
    return "done"


def weights(out: Path) -> dict[str, torch.Tensor]:
    state = latest_state(out)
    assert state is not None and state["step"] == 4
    parts = {"module": state["module"], "average": state["average"]["values"]}
    parts |= {"critic": state["critic"]} if state.get("critic") else {}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("alone")
    train(run(out, reduce="exact"))
    return weights(out)


def test_one_two_four_one_processes_end_with_the_weights_of_one(alone, tmp_path):
    train(run(tmp_path, reduce="exact"), stop_at=1)
    assert set(together(2, go_on, tmp_path, 2, 5, "exact")) == {"done"}
    assert set(together(4, go_on, tmp_path, 3, 5, "exact")) == {"done"}
    train(run(tmp_path, reduce="exact"))
    found = weights(tmp_path)
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], alone[name]) for name in alone)


@pytest.mark.parametrize("critic, most", [(False, 1e-5), (True, 1e-4)])
def test_fast_adding_differs_by_rounding(alone, tmp_path, critic, most):
    """All weights together within 1e-5 of their length; a single one may go further where a loss with a corner, or a
    critic's adaptive weight, grows the rounding."""
    if not critic:
        train(run(tmp_path / "alone", critic=False, reduce="exact"))
    one = alone if critic else weights(tmp_path / "alone")
    assert set(together(3, go_on, tmp_path / "three", 4, 5, "fast", critic)) == {"done"}
    found = weights(tmp_path / "three")
    names = [name for name in one if found[name].is_floating_point()]
    expected, other = (torch.cat([held[name].double().flatten() for name in names]) for held in (one, found))
    assert (other - expected).norm() <= 1e-5 * expected.norm()
    far = {name: float((found[name] - one[name]).abs().max()) for name in names}
    assert max(far.values()) <= most, max(far.items(), key=lambda item: item[1])


def test_more_processes_than_parts_are_refused(tmp_path):
    for told in together(2, go_on, tmp_path, 4, 1):
        assert "accumulation 1: 2 processes" in told
    assert not any(tmp_path.iterdir())


def first_is_slow(seconds: float, beat: float, fails: bool, patience: float = 60) -> tuple[str, float]:
    """What became of the wait for the first process, and how long it was."""
    dist.barrier()  # both are here: a machine that starts them slowly does not count
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=patience))
    data_parallel.HEARTBEAT, began, said = beat, time.monotonic(), "done"
    try:
        with data_parallel.DataParallel(2).main_process_first():
            if dist.get_rank() == 0:
                time.sleep(seconds)
                if fails:
                    raise OutputError("no room")
    except (ConfigError, OutputError) as error:
        said = str(error)
    return said, time.monotonic() - began


def test_waiting_for_the_first_process_outlives_the_patience_of_a_collective():
    (first, _), (second, waited) = together(2, first_is_slow, 10.0, 0.5, False, 6.0)
    assert (first, second) == ("done", "done") and waited > 8


def test_a_slow_first_process_that_fails_is_not_waited_for():
    (first, _), (second, waited) = together(2, first_is_slow, 1.0, 0.2, True)
    assert first == "no room" and waited < 60
    assert second == "the first process of this run could not begin; see its message"
