"""What tests of training the transformer share: few clips to measure with, and one cache of latents a module."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def few_held_out(monkeypatch):
    """Four held-out clips instead of 64, and 14 of known stories instead of 56."""
    monkeypatch.setattr("cogvideox.training.tasks.diffusion_data.HELD_OUT_CLIPS", 4)
    monkeypatch.setattr("cogvideox.training.tasks.diffusion_data.STORY_CLIPS", 14)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A folder of encoded clips that the tests of a module share."""
    return tmp_path_factory.mktemp("latents")
