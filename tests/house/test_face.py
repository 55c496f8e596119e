"""The public face is light, complete, and needs nothing that breaks other libraries."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import cogvideox

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "diffusers", "av", "scipy", "cv2")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, cogvideox; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_help_loads_nothing_heavy():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['cogvideox', '--help']\n"
        "try:\n"
        "    runpy.run_module('cogvideox', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    out = run_python(code)
    assert out.strip().splitlines()[-1] == "[]"
    assert "generate" in out


def test_every_public_name_can_be_had():
    assert len(set(cogvideox.__all__)) == len(cogvideox.__all__)
    missing = [name for name in cogvideox.__all__ if not hasattr(cogvideox, name)]
    assert not missing
    assert {"load", "generate", "Video"} <= set(cogvideox.__all__)


def test_generate_is_a_function_and_a_room_in_any_order():
    code = (
        "import cogvideox.generation.options, cogvideox\n"
        "from cogvideox.generation import GenerateOptions\n"
        "print(callable(cogvideox.generate), cogvideox.GenerateOptions is GenerateOptions)"
    )
    assert run_python(code).strip() == "True True"


def test_what_dir_lists_is_what_is_public():
    shown = {name for name in dir(cogvideox) if not name.startswith("_")}
    rooms = {path.stem for path in (ROOT / "src" / "cogvideox").iterdir()}
    assert set(cogvideox.__all__) - {"__version__"} <= shown
    assert not shown - set(cogvideox.__all__) - rooms - {"annotations"}


def test_the_version_is_the_newest_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert newest and newest[1] == cogvideox.__version__.partition(".dev")[0]


def test_torchvision_is_not_installed_and_not_asked_for():
    """Its wheel beside a CPU torch breaks libraries that import it."""
    assert find_spec("torchvision") is None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert not [line for line in asked if line.startswith("torchvision")]


def test_a_model_loads_and_reads_a_prompt_without_transformers_and_torchvision():
    code = (
        "import sys; sys.modules.update(torchvision=None, transformers=None)\n"
        "import cogvideox; print(cogvideox.load('tiny').text.encode(['a red ring']).tokens)"
    )
    assert run_python(code).strip().splitlines()[-1].startswith("[")


def test_every_message_is_one_printable_line_of_bounded_length():
    from cogvideox.errors import CheckpointError, CogVideoXError

    told = str(CheckpointError("weights.pt: holds \r\n, \x1b[31m and \ud800 " + "a" * 100_000 + " end"))
    assert told.isprintable() and len(told) < 2000 and told.endswith(" end")
    assert "\\r\\n" in told and "\\ud800" in told
    assert str(CogVideoXError("Kätzchen – 日本")) == "Kätzchen – 日本"
