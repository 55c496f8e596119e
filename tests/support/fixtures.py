"""Fixtures of tests that type commands: a folder to work in, and a small model that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.models import write_model_folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """The folder of a small text-to-video model."""
    return str(write_model_folder(tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder, which the test works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
