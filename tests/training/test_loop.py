"""Training: resumed equals uninterrupted, held-out numbers are fixed, results load as ordinary folders."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from cogvideox.errors import ConfigError, NumericsError, OutputError
from cogvideox.training.checkpoint import state
from cogvideox.training.checkpoint.state import latest_state, save_state
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.metrics import RunLog
from cogvideox.training.optim import EMA, OptimConfig, learning_rate_factor
from cogvideox.training.tasks.vae import CropPhase, VAETraining, psnr
from cogvideox.vae import VAEConfig
from support.training_line import Line, LineTask
from support.training_line import run as line

VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4)


def run(out: Path, steps: int = 4, **settings) -> TrainConfig:
    task = VAETraining(
        vae=VAE,
        phases=(
            CropPhase(until=2, frames=1, size=16, batch=2),
            CropPhase(until=4, frames=9, size=16, batch=1),
        ),
        size=32,
        frames=9,
    )
    optim = settings.pop("optim", OptimConfig(lr=1e-3, warmup=2))
    return TrainConfig(
        name="test", task=task, out=str(out), steps=steps, optim=optim, save_every=1, log_every=1, **settings
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = latest_state(out)
    assert found is not None
    return found["module"] | {f"average.{k}": v for k, v in found["average"]["values"].items()}


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
    newest = sorted(tmp_path.glob("state-*/tensors*"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="passed over: state-00000002"):
        found = latest_state(tmp_path)
    assert found is not None and found["step"] == 1


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=1)
    with pytest.raises(ConfigError, match="is a run of 4 steps, 5 asked for.* set steps=4 to go on"):
        train(run(tmp_path, steps=5))
    with pytest.raises(ConfigError, match="other settings"):
        train(run(tmp_path, steps=3))
    with pytest.raises(ConfigError, match="other settings"):
        train(run(tmp_path, seed=5))


def test_states_without_their_settings_are_not_gone_on_from(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=2)
    (tmp_path / "run.yaml").unlink()
    with pytest.raises(
        ConfigError, match="no run.yaml that says which; choose another out=, or remove the folder"
    ):
        train(run(tmp_path, seed=7))


def test_small_learning_rates_are_not_rounded_away(tmp_path: Path) -> None:
    train(run(tmp_path, optim=OptimConfig(lr=1e-9, warmup=0)), stop_at=1)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(1e-9, rel=1e-3)


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
    average = EMA(module, decay=0.9)
    average.update()
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    average.update()
    with average.applied() as averaged:
        moved = averaged.weight - before
    assert ((moved > 0) & (moved < 1)).all()
    assert torch.equal(module.weight, before + 1)


def test_the_learning_rate_warms_up_and_ends_at_the_floor() -> None:
    config = OptimConfig(warmup=10, floor=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in range(101)]
    assert factors[0] == 0.1 and max(factors) == 1.0 and abs(factors[100] - 0.1) < 1e-9


def test_psnr_of_a_known_error() -> None:
    assert float(psnr(torch.tensor((2 * 16 / 255) ** 2))) == pytest.approx(24.0485, abs=1e-3)


def test_a_finished_run_that_is_started_again_says_so(tmp_path: Path, capsys) -> None:
    result = train(run(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert train(run(tmp_path)) == result
    assert "finished at step 4 already" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before
    shutil.rmtree(result)
    assert (train(run(tmp_path)) / "training.json").is_file()
    (result / "training.json").unlink()  # as a crash during the export leaves it
    assert (train(run(tmp_path)) / "training.json").is_file()


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), OutputError)],
)
def test_a_state_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch, error, told) -> None:
    save_state(tmp_path, 1, {"module": {}})

    def broken(file, data) -> None:
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(state, "_write", broken)
    with pytest.raises(told):
        save_state(tmp_path, 2, {"module": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001"]


def test_a_log_that_was_cut_short_does_not_stop_resuming(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=2)
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 2, "lo')
    with pytest.warns(UserWarning, match="cannot be read"):
        train(run(tmp_path))
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines() if "loss" in json.loads(line)]
    assert steps == [1, 2, 3, 4]


def test_numbers_that_are_not_finite_are_null_in_the_log(tmp_path: Path) -> None:
    train(run(tmp_path), stop_at=1)
    log = RunLog(tmp_path, 2, 1, "again")
    log.write(2, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    log.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert row["loss"] is None and row["grad_norm"] is None and row["lr"] == 0.5


def test_a_start_that_failed_does_not_keep_the_folder(tmp_path: Path, monkeypatch) -> None:
    def fails(self, seed, steps):
        raise ConfigError("cannot be built")

    with monkeypatch.context() as patch:
        patch.setattr(VAETraining, "build", fails)
        with pytest.raises(ConfigError, match="cannot be built"):
            train(run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    train(run(tmp_path / "run", steps=5), stop_at=1)
    assert "steps: 5" in (tmp_path / "run" / "run.yaml").read_text()


class Measured(LineTask):
    """A line with five held-out clips; ``at`` the one of that number something happens, once."""

    measure_batches, measure_width = 5, 1

    def __init__(self, config: Line, at: int, happens) -> None:
        super().__init__(config)
        self.at, self.happens, self.seen = at, happens, []

    def measure_batch(self, module, index):
        self.seen.append(index)
        if index == self.at:
            self.happens()
        return (float(module.weight.sum()) + index,)

    def combine(self, measured):
        return {"held_out": sum(values[0] for values in measured)}


def dies() -> None:
    raise RuntimeError("the machine is gone")


def reported(out: Path) -> list[dict]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("steps, save_every, at", [(4, 2, 2), (4, 4, 4), (4, 100, 4)])
def test_a_run_that_ends_while_it_measures_keeps_its_steps_and_measures_again(
    tmp_path, monkeypatch, steps, save_every, at
) -> None:
    def config(out: Path):
        return line(out, steps=steps, save_every=save_every).changed(measure_every=at)

    monkeypatch.setattr(Line, "build", lambda self, seed, steps: Measured(self, -1, dies))
    train(config(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Line, "build", lambda self, seed, steps: Measured(self, 3, dies))
        with pytest.raises(RuntimeError, match="gone"):
            train(config(tmp_path / "died"))
    assert latest_state(tmp_path / "died")["step"] == at
    train(config(tmp_path / "died"))
    assert reported(tmp_path / "died") == reported(tmp_path / "whole")
    assert sum("held_out" in each for each in reported(tmp_path / "died")) == steps // at


def test_a_stop_is_heard_between_held_out_clips(tmp_path: Path, monkeypatch) -> None:
    def config(out: Path):
        return line(out, steps=4, save_every=100).changed(measure_every=2)

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Line, "build", lambda self, seed, steps: Measured(self, -1, dies))
    train(config(tmp_path / "whole"))
    task = Measured(config(tmp_path).task, 2, interrupted)
    with monkeypatch.context() as patch:
        patch.setattr(Line, "build", lambda self, seed, steps: task)
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # ignored where tests run unattended
        try:
            with pytest.raises(KeyboardInterrupt):
                train(config(tmp_path / "stopped"))
        finally:
            signal.signal(signal.SIGINT, before)
    assert task.seen == [0, 1, 2], "clips after the signal are left"
    assert latest_state(tmp_path / "stopped")["step"] == 2
    train(config(tmp_path / "stopped"))
    assert reported(tmp_path / "stopped") == reported(tmp_path / "whole")
