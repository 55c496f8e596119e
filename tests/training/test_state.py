"""States: any damage is found and passed over, nothing is unpickled, one run holds a folder, SIGTERM saves."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox.errors import CheckpointError, ConfigError, NumericsError
from cogvideox.files.lock import folder_lock
from cogvideox.training.checkpoint.state import latest_state, save_state
from cogvideox.training.loop import train
from cogvideox.training.trainer import PREEMPTED
from support.processes import server
from support.training_line import run


def tree(step: int) -> dict:
    moment = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    return {
        "module": {"weight": torch.full((4, 3), float(step)), "half": torch.randn(5).half()},
        "optimizers": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": moment}}, "param_groups": [
            {"lr": 0.1, "betas": (0.9, 0.95), "params": [0], "fused": True, "foreach": None}]}],
        "average": None,
    }  # fmt: skip


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b and type(a) is type(b)


def test_a_state_comes_back_as_it_was_types_and_strides_included(tmp_path):
    saved = tree(7)
    save_state(tmp_path, 7, saved)
    assert equal(latest_state(tmp_path), {"step": 7, **saved})


def test_the_last_two_are_kept_and_a_step_can_be_saved_again(tmp_path):
    for step in (1, 2, 3, 3):
        save_state(tmp_path, step, tree(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002", "state-00000003"]


def test_random_damage_is_found_and_the_state_before_is_taken(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, step, tree(step))
    draw, newest = random.Random(0), tmp_path / "state-00000002"
    files = sorted(newest.iterdir())
    for _ in range(120):
        file = draw.choice(files)
        whole = file.read_bytes()
        at = draw.randrange(len(whole))
        kind = draw.choice(["flip", "cut", "zero", "gone"])
        if kind == "flip":
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        elif kind == "cut":
            file.write_bytes(whole[:at])
        elif kind == "zero":
            changed = whole[:at] + bytes(min(64, len(whole) - at)) + whole[at + 64 :]
            file.write_bytes(changed if changed != whole else whole[:-1])
        else:
            file.unlink()
        with pytest.warns(UserWarning, match="passed over: state-00000002"):
            assert latest_state(tmp_path)["step"] == 1
        file.write_bytes(whole)
    assert latest_state(tmp_path)["step"] == 2


def test_an_older_state_under_a_newer_name_is_not_taken_for_it(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, step, tree(step))
    (tmp_path / "state-00000001").rename(tmp_path / "state-00000009")
    with pytest.warns(UserWarning, match="state of step 1 under another name"):
        assert latest_state(tmp_path)["step"] == 2


def test_when_none_can_be_read_all_are_named(tmp_path):
    save_state(tmp_path, 1, tree(1))
    (tmp_path / "state-00000001" / "manifest.json").unlink()
    (tmp_path / "state-00000000.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="state-00000001.*state-00000000.pt"):
        latest_state(tmp_path)


def test_states_of_version_0_1_are_read(tmp_path):
    average = {"n_averaged": torch.tensor(5), "module.weight": torch.ones(2)}
    torch.save(
        {"step": 5, "module": {"weight": torch.ones(2)}, "average": average}, tmp_path / "state-00000005.pt"
    )
    found = latest_state(tmp_path)
    assert found["average"]["count"] == 5 and torch.equal(found["average"]["values"]["weight"], torch.ones(2))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    save_state(tmp_path, 1, tree(1))
    with pytest.raises(NumericsError, match="weight is not finite"):
        save_state(tmp_path, 2, {"module": {"weight": torch.tensor([1.0, float("nan")])}})
    assert latest_state(tmp_path)["step"] == 1


def test_litter_of_killed_saves_is_swept(tmp_path):
    """By the run that goes on, which says so; a folder that only looks like it stays."""
    out = tmp_path / "run"
    program = (
        "import os, signal, sys; from pathlib import Path; from cogvideox.files.atomic import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]) / 'state-00000003') as work:\n"
        "    (work / 'tree.json').write_text('{')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(out)], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    (out / ".state-00000003.new-0123456789ab").mkdir()
    (out / ".state-00000003.new-0123456789ab" / "mine.txt").write_text("not ours")
    with pytest.warns(UserWarning, match="half-written state-00000003 of a process that was killed"):
        train(run(out))
    assert [path.name for path in out.glob(".*")] == [".state-00000003.new-0123456789ab"]


def hold(folder: str, ready, go) -> None:
    with folder_lock(Path(folder)):
        ready.set()
        go.wait(60)


def test_a_second_run_on_a_folder_is_refused_and_a_killed_one_does_not_block_it(tmp_path):
    context = server()
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path / "run"), ready, go))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError, match=f"under way there .*process {holder.pid}"):
        train(run(tmp_path / "run"))
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    train(run(tmp_path / "run"))


def test_sigterm_saves_and_the_same_command_resumes(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train(
            run(tmp_path / "a", save_every=100),
            on_step=lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM),
        )
    assert stopped.value.code == PREEMPTED
    assert latest_state(tmp_path / "a")["step"] == 4  # the signal came after step 3 was done: one more
    train(run(tmp_path / "a", save_every=100))
    train(run(tmp_path / "b", save_every=100))
    assert equal(latest_state(tmp_path / "a"), latest_state(tmp_path / "b"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
