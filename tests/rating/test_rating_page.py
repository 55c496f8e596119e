"""The rating page in a headless browser, small; ``walk.py`` beside this does it large."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
sys.path.insert(0, str(Path(__file__).parent))
import walk  # noqa: E402

pytestmark = pytest.mark.skipif(walk.CHROMIUM is None, reason="no chromium on this machine")


def test_raters_at_the_keyboard_and_a_server_that_dies(tmp_path):
    done = walk.walk_raters(tmp_path, raters=2, videos=4, kills=1, shots=None)
    assert done["ratings"] == 8


def test_scripts_run_nowhere(tmp_path):
    assert walk.walk_strings(tmp_path, strings=10) == 10
