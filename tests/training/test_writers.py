"""One state by several writers: whole or not at all, whoever fails."""

import threading

import pytest
import torch

from cogvideox.errors import OutputError
from cogvideox.files.atomic import atomic_folder
from cogvideox.parallel.data_parallel import DataParallel
from cogvideox.training.checkpoint import state
from cogvideox.training.checkpoint.saver import Saver
from cogvideox.training.checkpoint.state import latest_state, save_state, snapshot, write_state
from cogvideox.training.checkpoint.writers import Writers
from support.writing import write


def test_every_rank_writes_its_own_files_under_one_manifest(tmp_path):
    assert write(tmp_path, 3) == [None] * 3
    names = {file.name for file in (tmp_path / "state-00000002").iterdir()}
    assert names == {"manifest.json", "tree.json"} | {f"tensors-0000{n}-00000.safetensors" for n in range(3)}
    assert latest_state(tmp_path)["step"] == 2


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_disk_that_is_full_for_one_rank_leaves_the_state_before(tmp_path, monkeypatch, broken):
    save_state(tmp_path, 1, {"module": {}})
    whole = state._write

    def full(file, data):
        if file.name.startswith(f"tensors-{broken:05d}"):
            raise OSError(28, "No space left on device")
        return whole(file, data)

    monkeypatch.setattr(state, "_write", full)
    failed = write(tmp_path, 3)
    assert isinstance(failed[0], OutputError) and "No space left" in str(failed[0])
    assert isinstance(failed[broken], OutputError)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001"]


def test_a_folder_that_is_given_up_while_others_write_in_it_is_gone(tmp_path):
    target = tmp_path / "state-00000002"
    told = []

    def other(rank):
        try:
            with Writers(rank, 4, patience=20).joining(target) as work:
                for number in range(100_000):
                    (work / f"tensors-{rank:05d}-{number:05d}").write_bytes(b"x")
        except OutputError as error:
            told.append(str(error))

    threads = [threading.Thread(target=other, args=(rank,)) for rank in (1, 2, 3)]
    for thread in threads:
        thread.start()
    with pytest.raises(OutputError, match="No space left"), atomic_folder(target) as work:
        while len(list(work.iterdir())) < 1000 or len({path.name[:13] for path in work.iterdir()}) < 3:
            pass
        raise OSError(28, "No space left on device")
    for thread in threads:
        thread.join()
    assert len(told) == 3 and all("the first process gave up" in text for text in told)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_says_nothing_is_not_waited_for_without_end(tmp_path):
    taken = snapshot(1, {"module": {}})
    with pytest.raises(OutputError, match="process 1 has written nothing"):
        write_state(tmp_path, taken, Writers(0, 2, patience=0.05))
    with pytest.raises(OutputError, match="has not begun"):
        write_state(tmp_path, taken, Writers(1, 2, patience=0.05))
    assert not list(tmp_path.iterdir())


def test_a_save_in_the_background_is_of_its_moment_and_its_failure_is_told(tmp_path, monkeypatch):
    saver, weight, gate = Saver(tmp_path, DataParallel(1), background=True), torch.ones(2), threading.Event()
    whole = state._write

    def slow(file, data):
        assert gate.wait(20)
        return whole(file, data)

    monkeypatch.setattr(state, "_write", slow)
    saver.save(1, {"module": {"weight": weight}})
    weight.fill_(5.0)  # the run goes on
    assert not list(tmp_path.glob("state-*"))
    gate.set()
    saver.wait()
    saver.raise_if_failed()
    assert torch.equal(latest_state(tmp_path)["module"]["weight"], torch.ones(2))

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "_write", full)
    saver.save(2, {"module": {"weight": weight}})
    saver.wait()
    with pytest.raises(OutputError, match="No space left"):
        saver.raise_if_failed()
    assert latest_state(tmp_path)["step"] == 1
