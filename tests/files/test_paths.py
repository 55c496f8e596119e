"""Folders that lie in each other are known whatever they are called."""

from __future__ import annotations

import os

import pytest

from cogvideox.files.paths import lies_in


def test_names_do_not_hide_that_a_folder_lies_in_another(tmp_path, monkeypatch):
    (tmp_path / "data" / "videos").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "deep").symlink_to(tmp_path / "data" / "videos")
    monkeypatch.chdir(tmp_path / "data")
    for inner in (
        "videos",
        "../link/videos",
        tmp_path / "deep",
        "videos/not/yet",
        "../deep/new",
        "./videos/../videos",
    ):
        assert lies_in(inner, tmp_path / "link"), inner
    for apart in ("../data2", "../datas/videos", ".."):
        assert not lies_in(apart, "."), apart


def test_the_systems_identity_counts_where_names_differ(tmp_path, monkeypatch):
    """On a file system that ignores case ``DATA`` is ``data``, and no name in the path says so."""
    (tmp_path / "data" / "videos").mkdir(parents=True)
    real = os.stat

    def ignoring_case(path, *args, **kwargs):
        return real(str(path).replace("DATA", "data"), *args, **kwargs)

    monkeypatch.setattr(os, "stat", ignoring_case)
    assert lies_in(tmp_path / "data" / "videos", tmp_path / "DATA")
    assert lies_in(tmp_path / "DATA" / "videos" / "out", tmp_path / "data" / "videos")


@pytest.mark.parametrize("name", ["loop", "x" * 300])
def test_names_that_cannot_be_followed_lie_nowhere(tmp_path, name):
    if name == "loop":
        (tmp_path / "loop").symlink_to("loop")
    assert not lies_in(tmp_path, tmp_path / name)
