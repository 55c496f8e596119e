"""Fixtures of tests that type commands: a folder to work in, and a small model that is there."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="session")
def cluster():
    """A Ray of two processors here, whose actors find the workers of the tests; skips where ray is missing."""
    ray = pytest.importorskip("ray", reason="ray comes with the extra 'cluster'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )  # fmt: skip
    yield
    ray.shutdown()
