"""Whole or not at all, whatever kills the writer and whenever; what it leaves is swept, and nothing else is."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
import warnings

import pytest

from cogvideox.errors import OutputError
from cogvideox.files import atomic, pidfile
from cogvideox.files.atomic import atomic_file, atomic_folder, discard, exchange, sweep, write_text
from support.processes import exit_code

FILES = ("a", "b/c", "b/d/e", "f")


def replaceable(folder):
    return ""


def write_version(target, number, pause=0.0):
    with atomic_folder(target, overwrite=True, replaceable=replaceable) as work:
        for name in FILES:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(str(number))
            time.sleep(pause)


def version(target):
    """The number that all its files hold; fails when they differ or one is missing."""
    found = {(target / name).read_text() for name in FILES}
    assert len(found) == 1, found
    return int(found.pop())


def litter(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def cannot_exchange(a, b):
    return False


def write_for_ever(target, number, exchanges=True, pause=0.0):
    """Versions from ``number`` on, each with its own; with a ``pause`` after each file."""
    if not exchanges:
        atomic.exchange = cannot_exchange
    for version in itertools.count(number):
        write_version(target, version, pause)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "renamed twice"])
def test_a_folder_that_is_overwritten_again_and_again_is_whole_after_every_kill(
    exchanges, tmp_path, monkeypatch
):
    if not exchanges:
        monkeypatch.setattr(atomic, "exchange", cannot_exchange)
    target, rng, last = tmp_path / "model", random.Random(0), 0
    write_version(target, 0)
    for _ in range(80):
        after = rng.uniform(0, 0.03)
        ended = exit_code(write_for_ever, target, last + 1, exchanges, kill=signal.SIGKILL, after=after)
        assert ended == -signal.SIGKILL
        if exchanges:
            last = version(target)  # nobody has swept yet
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sweep(tmp_path)
        assert litter(tmp_path) == []
        last = version(target)
    assert last > 0


def test_sigterm_leaves_nothing_behind(tmp_path):
    target, rng, last = tmp_path / "model", random.Random(1), 0
    write_version(target, 0)
    ended = 0
    for _ in range(30):
        after = rng.uniform(0.005, 0.03)
        code = exit_code(write_for_ever, target, last + 1, True, 0.002, kill=signal.SIGTERM, after=after)
        ended += code == atomic.TERMINATED
        last = version(target)
        sweep(tmp_path)  # a signal between two writes ends a process at once
        assert litter(tmp_path) == []
    assert ended > 20
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def die_between_two_renames(target, number):
    rename, atomic.exchange = os.rename, cannot_exchange

    def second_fails(source, to):
        if os.path.basename(source) == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, to)

    os.rename = second_fails
    write_version(target, number)


def test_a_writer_that_died_between_two_renames_is_finished_by_the_next_start(tmp_path):
    target = tmp_path / "model"
    write_version(target, 1)
    assert exit_code(die_between_two_renames, target, 2) == -signal.SIGKILL
    assert not target.exists()
    with pytest.warns(UserWarning, match="model: its writer was killed at the last step, which is done now"):
        sweep(tmp_path)
    assert version(target) == 2 and litter(tmp_path) == []


def write_half(file, data):
    with atomic_file(file, overwrite=True) as half:
        half.write_bytes(data)
        time.sleep(60)


def test_a_killed_file_is_swept_and_named_and_the_old_one_stands(tmp_path):
    file = tmp_path / "x.bin"
    file.write_text("old")
    exit_code(write_half, file, bytes(3_000_000), kill=signal.SIGKILL, after=0.3)
    assert file.read_text() == "old" and len(litter(tmp_path)) == 1
    with pytest.warns(UserWarning, match=r"half-written x\.bin of a process that was killed .*3\.0 MB"):
        sweep(tmp_path)
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_next_write_sweeps(tmp_path):
    for write in (
        lambda: write_text(tmp_path / "deep" / "y", "whole"),
        lambda: write_version(tmp_path / "deep" / "z", 1),
    ):
        exit_code(write_half, tmp_path / "deep" / "x", b"half", kill=signal.SIGKILL, after=0.3)
        atomic._swept.clear()  # as in a new process
        with pytest.warns(UserWarning, match="half-written x"):
            write()
        assert litter(tmp_path / "deep") == []


def count_swept(folder):
    raise SystemExit(len(sweep(folder)))


def test_who_still_writes_is_left_alone(tmp_path):
    with atomic_folder(tmp_path / "model") as work:
        (work / "a").write_text("1")
        assert sweep(tmp_path) == []
        assert exit_code(count_swept, tmp_path) == 0
        assert (work / "a").exists()
    assert (tmp_path / "model" / "a").read_text() == "1"


def mark(place, **said):
    place.mkdir()
    (place / "new").mkdir()
    (place / "new" / "film.mp4").write_text("precious")
    here = {"kind": pidfile.KIND, "name": "model", **pidfile._here(), "pid": 2**22 + 1}
    (place / pidfile.NAME).write_text(json.dumps(here | said))


STRANGERS = {
    "no mark": lambda place: (mark(place), (place / pidfile.NAME).unlink()),
    "another program's mark": lambda place: mark(place, kind="another program"),
    "not JSON": lambda place: (mark(place), (place / pidfile.NAME).write_text("{")),
    "deep JSON": lambda place: (mark(place), (place / pidfile.NAME).write_text("[" * 2000)),
    "a path as name": lambda place: mark(place, name="../model"),
    "a pipe as mark": lambda place: (
        mark(place),
        (place / pidfile.NAME).unlink(),
        os.mkfifo(place / pidfile.NAME),
    ),
    "a link as mark": lambda place: (
        mark(place),
        (place / pidfile.NAME).rename(place.parent / "mark"),
        (place / pidfile.NAME).symlink_to(place.parent / "mark"),
    ),
    "a link as folder": lambda place: (
        mark(place.parent / "real"),
        place.symlink_to(place.parent / "real"),
    ),
    "empty mark": lambda place: (mark(place), (place / pidfile.NAME).write_text("")),
}


@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_not_provably_ours_stays(make, tmp_path):
    place = tmp_path / ".model.new-0123456789ab"
    make(place)
    before = sorted(tmp_path.rglob("*"))
    assert sweep(tmp_path, below=True) == [] and sorted(tmp_path.rglob("*")) == before


def test_what_another_machine_left_is_named_and_stays(tmp_path):
    mark(tmp_path / ".model.new-0123456789ab", host="elsewhere", boot="another")
    with pytest.warns(UserWarning, match="left by process .* on elsewhere while it wrote model"):
        sweep(tmp_path)
    assert (tmp_path / ".model.new-0123456789ab" / "new" / "film.mp4").exists()


def test_an_empty_workplace_goes(tmp_path):
    """Its maker died before its first word."""
    (tmp_path / ".a.new-0123456789ab").mkdir()
    (tmp_path / ".b.new-0123456789ab").mkdir()
    (tmp_path / ".b.new-0123456789ab" / pidfile.NAME).touch()
    sweep(tmp_path)
    assert litter(tmp_path) == []


def test_two_names_change_places_in_one_step(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "b").is_dir() and (tmp_path / "a").read_text() == "b"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "missing")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write_version(tmp_path / "disk" / "model", 1)
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    write_version(tmp_path / "model", 2)
    assert (tmp_path / "model").is_symlink() and version(tmp_path / "disk" / "model") == 2


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(OutputError, match="holds files already"), atomic_folder(target):
        target.mkdir()
        (target / "mine").write_text("mine")
    assert (target / "mine").exists() and litter(tmp_path) == []


def test_names_of_every_kind_and_length_can_be_written(tmp_path):
    for name in ("n" * 255, "é" * 120, "-x", "new", ".hidden", "a\nb"):
        write_text(tmp_path / "deep" / name, name)
        assert (tmp_path / "deep" / name).read_text() == name
    assert litter(tmp_path / "deep") == [".hidden"]


def test_rights_are_set_before_the_name(tmp_path):
    before = os.umask(0)
    try:
        write_text(tmp_path / "secret", "x", mode=0o600)
        write_text(tmp_path / "open", "x")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("secret", "open")] == [0o600, 0o666]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "file" / "x", "x")
    with pytest.raises(OutputError, match="exists already"), atomic_file(tmp_path / "file"):
        pass


def test_discarding_removes_links_and_never_what_they_lead_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    for name in ("link", "file", "missing"):
        discard(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["real"] and (tmp_path / "real" / "a").exists()
