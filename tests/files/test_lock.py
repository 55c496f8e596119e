"""One lock: a second holder is refused by name, a dead one holds nothing, files of others are never touched."""

from __future__ import annotations

import os
import signal

import pytest

from cogvideox.errors import ConfigError, OutputError
from cogvideox.files.lock import folder_lock
from support.processes import exit_code


def test_a_second_holder_is_refused_and_the_folder_goes_with_the_lock(tmp_path):
    folder = tmp_path / "new"
    with folder_lock(folder):
        with (
            pytest.raises(
                ConfigError, match=rf"at work there \(.* process {os.getpid()}\); wait .*another --out"
            ),
            folder_lock(folder, "somebody is at work there", "choose another --out"),
        ):
            pass
        assert (folder / ".lock").is_file()
    assert not folder.exists()


def die_as_holder(folder):
    with folder_lock(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_holder_holds_nothing(tmp_path):
    assert exit_code(die_as_holder, tmp_path) == -signal.SIGKILL
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("kind", ["text", "link", "pipe", "folder"])
def test_a_lock_file_of_others_is_neither_changed_nor_removed(kind, tmp_path):
    file, other = tmp_path / "x" / ".lock", tmp_path / "other"
    file.parent.mkdir()
    other.write_text("precious")
    {
        "text": lambda: file.write_text("my own notes"),
        "link": lambda: file.symlink_to(other),
        "pipe": lambda: os.mkfifo(file),
        "folder": lambda: file.mkdir(),
    }[kind]()
    with pytest.raises(OutputError, match="cannot be locked"), folder_lock(file.parent):
        pass
    assert os.path.lexists(file) and other.read_text() == "precious"
    assert kind != "text" or file.read_text() == "my own notes"
