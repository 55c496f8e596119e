"""Every example runs with the shipped model and ends in something to look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideox.checkpoints.shipped import shipped_folder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "text_to_video.py": (["a red circle moves to the right", "{out}/text.mp4"], "text.mp4"),
    "reconstruct.py": (["{out}/reconstruction.png"], "reconstruction.png"),
    "samplers.py": (["{out}/samplers.png", "4"], "samplers.png"),
    "judge_a_video.py": (["0", "4"], None),
}

pytestmark = pytest.mark.skipif(
    shipped_folder("tiny") is None, reason="the tiny model does not come with this source tree"
)


def test_every_example_is_listed_and_short():
    found = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert found == set(EXAMPLES)
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 30, path.name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path):
    arguments, result = EXAMPLES[name]
    command = [sys.executable, str(ROOT / "examples" / name), *(a.format(out=tmp_path) for a in arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if result is not None:
        assert (tmp_path / result).stat().st_size > 500
