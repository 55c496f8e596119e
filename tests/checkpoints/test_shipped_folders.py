"""Shipped models share an autoencoder and a text encoder; each is a whole folder for whoever asks."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import cogvideox
from cogvideox.checkpoints import find_folder, shipped
from cogvideox.errors import CheckpointError
from support.models import write_model_folder


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package with ``tiny`` whole and a ``tiny-base`` that has only what is its own."""
    base = tmp_path / "package"
    for name in ("tiny", "tiny-base"):
        write_model_folder(base / name, "t2v")
    for part in shipped.SHARED:
        shutil.rmtree(base / "tiny-base" / part)
    monkeypatch.setattr(shipped, "SHIPPED", (base,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shipped._put_together.cache_clear()
    yield base
    shipped._put_together.cache_clear()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_model_is_whole_with_what_it_shares(package):
    whole = find_folder("tiny-base")
    own, lent = files(package / "tiny-base"), files(package / "tiny")
    shared = {name: data for name, data in lent.items() if name.split("/")[0] in shipped.SHARED}
    assert shared and files(whole) == own | shared
    assert find_folder("tiny") == package / "tiny"  # whole as it lies there
    assert shipped.is_shipped(whole) and not shipped.is_shipped(package / "tiny-base" / "transformer")
    model = cogvideox.load("tiny-base")
    expected = cogvideox.load(str(package / "tiny")).vae.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.vae.state_dict().items())


def test_it_is_put_together_once_for_the_same_bytes(package):
    first = find_folder("tiny-base")
    stamp = (first / "model_index.json").stat().st_mtime_ns
    shipped._put_together.cache_clear()  # another process
    assert find_folder("tiny-base") == first and (first / "model_index.json").stat().st_mtime_ns == stamp
    record = package / "tiny-base" / "cogvideox.json"
    record.write_text(record.read_text() + "\n")
    shipped._put_together.cache_clear()
    assert find_folder("tiny-base") not in (first, package / "tiny-base")  # another version beside it


def test_a_home_that_cannot_be_written_is_no_hindrance(package, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    whole = find_folder("tiny-base")
    assert (whole / "vae").is_dir() and str(tmp_path / "file") not in str(whole)
    assert os.stat(whole.parents[2]).st_mode & 0o077 == 0  # for nobody else


def test_a_missing_part_is_named(package):
    shutil.rmtree(package / "tiny" / "vae")
    with pytest.raises(CheckpointError, match=r"tiny-base: it lacks .*tiny.vae.*install the package anew"):
        find_folder("tiny-base")
