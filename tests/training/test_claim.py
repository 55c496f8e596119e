"""Whose folder it is: what a resume may change, and how a run is stopped and gone on with."""

import os
import signal
from importlib.machinery import ModuleSpec

import pytest
import torch

from cogvideox.errors import ConfigError, DependencyError
from cogvideox.training import metrics
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import train
from support.clip_folders import write_layout
from support.folder_runs import run
from support.models import write_model_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A toy model, a folder of clips, and a whole run."""
    root = tmp_path_factory.mktemp("claims")
    write_model_folder(root / "toy")
    write_layout(root / "clips", "stems", count=7, frames=(9, 17), size=48, images=3)
    train(run(root, root / "whole"))
    return root


def same(one, two):
    first, second = (latest_state(out)["module"] for out in (one, two))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_how_a_run_is_done_and_told_may_change(place, tmp_path):
    config = run(place, tmp_path / "run")
    train(config, stop_at=2)
    (tmp_path / "run").rename(tmp_path / "moved")
    task = config.task
    data = task.data.changed(folder=task.data.folder + "/")
    changes = {
        "data": data,
        "recompute": True,
        "cache": str(tmp_path / "cache"),
        "device": "cpu",
        "samples": 1,
        "kernel": "torch",
    }
    more = {"save_every": 3, "log_every": 2, "measure_every": 4, "background": True, "peak_tflops": 1.0}
    changed = config.changed(task=task.changed(**changes), out=str(tmp_path / "moved"), **more)
    train(changed)
    assert same(place / "whole", tmp_path / "moved")
    assert "recompute: true" in (tmp_path / "moved" / "run.yaml").read_text()


def test_what_comes_of_a_run_may_not_change_and_is_named(place, tmp_path):
    config = run(place, tmp_path)
    train(config, stop_at=1)
    with pytest.raises(
        ConfigError, match=r"\(steps: 4 -> 5; seed: 0 -> 1; optim.lr: 0.01 -> 0.1\); set them back"
    ):
        train(config.override(["steps=5", "seed=1", "optim.lr=0.1"]))
    with pytest.raises(ConfigError, match=r"task.data.budget: 80 -> 90"):
        train(config.override(["task.data.budget=90"]))
    (tmp_path / "run.yaml").write_text("{ no settings")
    with pytest.raises(ConfigError, match="run.yaml: cannot be read"):
        train(config)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_saves_and_the_same_command_goes_on(place, tmp_path, interruptible, capfd):
    config = run(place, tmp_path).changed(save_every=100)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=lambda step: step == 1 and signal.raise_signal(signal.SIGINT))
    said = capfd.readouterr().err
    assert "stopping after this step" in said and "stopped at step 2; the same command resumes" in said
    assert latest_state(tmp_path)["step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(config)
    assert same(place / "whole", tmp_path)


def test_the_second_ctrl_c_ends_at_once(place, tmp_path, interruptible):
    def twice(step):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run(place, tmp_path).changed(save_every=100), on_step=twice)
    assert latest_state(tmp_path) is None


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_last_step_is_not_forgotten(place, tmp_path, interruptible, step, number):
    """Stages would go on with the next one; step 3 is over when the signal comes, so the fourth and last hears it."""
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        train(run(place, tmp_path), on_step=lambda done: done == step and signal.raise_signal(number))
    assert latest_state(tmp_path)["step"] == 4 and not (tmp_path / "model").exists()
    assert train(run(place, tmp_path)) == tmp_path / "model"
    assert same(place / "whole", tmp_path)


def test_an_ignored_ctrl_c_stays_ignored(place, tmp_path, interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(run(place, tmp_path), on_step=lambda step: signal.raise_signal(signal.SIGINT))
    assert latest_state(tmp_path)["step"] == 4


@pytest.mark.parametrize(
    "found", [lambda name: None, lambda name: ModuleSpec(name, None)], ids=["none", "folder"]
)
@pytest.mark.parametrize("board", [{"wandb": "project"}, {"tensorboard": True}], ids=["wandb", "tensorboard"])
def test_a_board_that_is_not_installed_is_told_before_the_work(place, tmp_path, monkeypatch, board, found):
    monkeypatch.setattr(metrics, "find_spec", found)
    config = run(place, tmp_path / "run", cache=str(tmp_path / "cache")).changed(**board)
    with pytest.raises(DependencyError, match="not installed; pip install"):
        train(config)
    assert not list(tmp_path.iterdir())


def test_a_board_shows_no_steps_of_a_run_that_died(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, last in ((0, 5), (2, 4)):
        (show,) = metrics.open_loggers(tmp_path, True, None, {}, start)
        for step in range(start + 1, last + 1):
            show(step, {"loss": float(start)})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0), (2, 0), (3, 2), (4, 2)]


@pytest.mark.parametrize("name", ["run.yaml", "metrics.jsonl"])
def test_files_of_others_in_the_folder_are_never_replaced(place, tmp_path, name):
    for text in ("mine: 1\n", "my own figures\n", ""):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=f"{name}: is of no run"):
            train(run(place, tmp_path))
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: text}
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}: is of no run"):
        train(run(place, tmp_path))
