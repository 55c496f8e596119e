"""What goes wrong around a run: each is refused in one line, or survived without a bit lost."""

import resource
import signal
from pathlib import Path

import pytest
import torch

from cogvideox.errors import CheckpointError, CogVideoXError, ConfigError, NumericsError
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.parallel.mesh import MeshConfig
from cogvideox.training.checkpoint.state import latest_state, save_state
from cogvideox.training.loop import train
from support.processes import exit_code
from support.training_line import LineTask, run
from support.writing import write


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(
    ("mesh", "ranks", "told"),
    [
        ({"shard": 3}, 4, "mesh data 1 x shard 3 x context 1 is 3 processes, started: 4"),
        ({"data": 2, "context": 2}, 6, "mesh data 2 x shard 1 x context 2 is 4 processes, started: 6"),
        ({"data": 2}, 1, "mesh data 2 x shard 1 x context 1 is 2 processes, started: 1"),
        ({"shard": 2, "context": 4}, 4, "is 8 processes, started: 4"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_both_numbers(mesh, ranks, told):
    with pytest.raises(ConfigError, match=told):
        MeshConfig(**mesh).sizes(ranks)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mesh": MeshConfig(shard=2)}, "is 2 processes, started: 1"),
        ({"mesh": MeshConfig(context=3)}, "is 3 processes, started: 1"),
        ({"sample_every": 2}, "a run of Line makes no videos"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_leaves_nothing(settings, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        train(run(tmp_path / "run").model_copy(update=settings))
    assert not (tmp_path / "run").exists()


def train_until_the_disk_is_full(folder: Path, background: bool) -> None:
    """A limit of the process stands for a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(step: int) -> None:
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))

    try:
        train(run(folder / "run").changed(background=background), on_step=fill)
    except CogVideoXError as error:
        (folder / "error").write_text(f"{type(error).__name__} {error}")
        raise SystemExit(7) from None


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_stops_the_run_which_goes_on_with_the_same_bits(background, tmp_path):
    settings = {"background": background}
    assert exit_code(train_until_the_disk_is_full, tmp_path, background) == 7
    told = (tmp_path / "error").read_text()
    assert told.startswith("OutputError") and "\n" not in told
    kept = (1, 2) if background else (2,)  # the second may be half-written when the disk fills up
    assert latest_state(tmp_path / "run")["step"] in kept
    train(run(tmp_path / "run").model_copy(update=settings))
    train(run(tmp_path / "whole").model_copy(update=settings))
    assert equal(latest_state(tmp_path / "run"), latest_state(tmp_path / "whole"))
    ledgers = [(tmp_path / name / "ledger.jsonl").read_bytes() for name in ("run", "whole")]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_corrupt_shard_of_any_rank_brings_back_the_state_before(rank, damage, tmp_path):
    save_state(tmp_path, 1, {"module": {}})
    assert write(tmp_path, 3) == [None] * 3
    shard = tmp_path / "state-00000002" / f"tensors-{rank:05d}-00000.safetensors"
    data = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.warns(UserWarning, match="passed over: state-00000002"):
        assert latest_state(tmp_path)["step"] == 1


@pytest.mark.parametrize(("bad", "told"), [((2,), None), ((1, 3), None), ((1, 2, 3), "3 steps in a row")])
def test_data_that_is_not_finite_is_skipped_or_stops_the_run(bad, told, tmp_path):
    config = run(tmp_path, bad=bad, where="data")
    if told:
        with pytest.raises(NumericsError, match=told):
            train(config)
        return
    train(config)
    state = latest_state(tmp_path)
    assert state["step"] == 6 and state["guard"]["skipped"] == len(bad)
    assert all(bool(value.isfinite().all()) for value in state["module"].values())


def test_a_state_of_another_network_is_named(tmp_path):
    config = run(tmp_path)
    train(config, stop_at=1)
    state = latest_state(tmp_path)
    state["module"]["weight"] = torch.zeros(1, 7)
    save_state(Path(config.out), 2, {name: value for name, value in state.items() if name != "step"})
    with pytest.raises(CheckpointError, match=r"weight is \(1, 7\) there and \(1, 3\) here"):
        train(config)


def test_alone_a_team_has_no_parts():
    alone = DataParallel(3)
    assert (alone.dp_size, alone.loss_scale, alone.sharded, alone.local_indices(3)) == (
        1,
        1.0,
        False,
        [0, 1, 2],
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_whose_last_figures_are_not_finite_has_a_state_and_no_model(value, tmp_path, monkeypatch):
    """Started again it says the same."""
    monkeypatch.setattr(LineTask, "measure", lambda task, module: {"held_out": value})
    for _ in range(2):
        with pytest.raises(NumericsError, match=f"step 6: held_out is {value}, so no model is written"):
            train(run(tmp_path / "run"))
        assert latest_state(tmp_path / "run")["step"] == 6
        assert not (tmp_path / "run/model").exists()
