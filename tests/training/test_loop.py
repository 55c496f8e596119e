"""Training: resumed equals uninterrupted, held-out numbers are fixed, results load as ordinary folders."""

import json
from pathlib import Path

import pytest
import torch

from cogvideox.errors import ConfigError, NumericsError
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig, averaged, learning_rate_factor
from cogvideox.training.state import latest_state
from cogvideox.training.vae import Crops, VAETraining, psnr
from cogvideox.vae import VAEConfig

VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4)


def run(out: Path, steps: int = 4, **settings) -> TrainConfig:
    task = VAETraining(
        vae=VAE,
        phases=(Crops(until=2, frames=1, size=16, batch=2), Crops(until=4, frames=9, size=16, batch=1)),
        size=32,
        frames=9,
    )
    optim = settings.pop("optim", OptimConfig(lr=1e-3, warmup=2))
    return TrainConfig(
        name="test", task=task, out=str(out), steps=steps, optim=optim, save_every=1, log_every=1, **settings
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    state = latest_state(out)
    assert state is not None
    return state["module"] | {f"average.{k}": v for k, v in state["average"].items()}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    train(run(tmp_path / "whole"))
    train(run(tmp_path / "parts"), stop_at=1)
    train(run(tmp_path / "parts"), stop_at=3)
    train(run(tmp_path / "parts"))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [
        [json.loads(x) for x in (tmp_path / d / "metrics.jsonl").read_text().splitlines()]
        for d in ("whole", "parts")
    ]
    losses = [[(row["step"], row["loss"]) for row in r if "loss" in row] for r in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_truncated_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=2)
    newest = sorted(tmp_path.glob("state-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    state = latest_state(tmp_path)
    assert state is not None and state["step"] == 1


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=1)
    with pytest.raises(ConfigError, match="other settings"):
        train(run(tmp_path, steps=5))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="loss is"):
        train(run(tmp_path, optim=OptimConfig(lr=1e30, warmup=0, clip=1e30)))


def test_the_result_is_an_ordinary_folder(tmp_path: Path) -> None:
    from cogvideox.checkpoints.diffusers import load_vae

    result = train(run(tmp_path))
    vae = load_vae(result)
    assert vae.config.block_out_channels == (8, 8, 8, 8)
    assert vae.config.scaling_factor != VAE.scaling_factor


def test_the_average_moves_towards_the_weights() -> None:
    module = torch.nn.Linear(2, 2)
    average = averaged(module, decay=0.9)
    average.update_parameters(module)
    before = average.module.weight.clone()
    with torch.no_grad():
        module.weight.add_(1)
    average.update_parameters(module)
    moved = average.module.weight - before
    assert ((moved > 0) & (moved < 1)).all()


def test_the_learning_rate_warms_up_and_ends_at_the_floor() -> None:
    config = OptimConfig(warmup=10, floor=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in range(101)]
    assert factors[0] == 0.1 and max(factors) == 1.0 and abs(factors[100] - 0.1) < 1e-9


def test_psnr_of_a_known_error() -> None:
    assert float(psnr(torch.tensor((2 * 16 / 255) ** 2))) == pytest.approx(24.0485, abs=1e-3)
