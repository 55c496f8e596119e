"""What the package declares to need is what it imports, at versions without known holes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"test", "dev"}
IMPORTED_AS = {
    "pyyaml": "yaml", "pillow": "PIL", "huggingface-hub": "huggingface_hub", "ray": "ray",
    "opencv-python-headless": "cv2", "scenedetect-headless": "scenedetect", "c2pa-python": "c2pa",
}  # fmt: skip
SECURE = {"torch": (2, 10), "av": (18, 1), "pillow": (12, 3), "safetensors": (0, 8), "transformers": (5, 3),
          "starlette": (1, 3, 1), "ray": (2, 54)}  # fmt: skip
SOURCE = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")}


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def requirements(extras=True):
    every = [*PROJECT["dependencies"]]
    for name, held in EXTRAS.items() if extras else ():
        every += (
            [one for one in held if not one.startswith("cogvideox[")] if name not in FOR_DEVELOPERS else []
        )
    return every


@pytest.mark.parametrize("requirement", requirements())
def test_every_library_that_is_asked_for_is_imported(requirement):
    module = IMPORTED_AS.get(name_of(requirement), name_of(requirement).replace("-", "_"))
    wanted = re.compile(rf"^\s*(?:import|from) (?:{module}|torch\.utils\.{module})\b", re.MULTILINE)
    assert any(wanted.search(text) for text in SOURCE.values()), f"{requirement}: nothing imports {module}"


def test_messages_and_pages_name_extras_that_exist():
    pages = {
        path: path.read_text(encoding="utf-8")
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    }
    for path, text in {**SOURCE, **pages}.items():
        if path.name == "CHANGELOG.md":  # says what was
            continue
        for names in re.findall(r"cogvideox\[([a-z, -]+)\]", text):
            for name in names.split(","):
                assert name.strip() in EXTRAS, f"{path}: extra {name}"


def test_floors_are_at_versions_without_known_holes():
    named = {name_of(one): one for one in requirements()}
    for name, least in SECURE.items():
        floor = re.search(r">=([\d.]+)", named[name]).group(1)
        assert tuple(map(int, floor.split("."))) >= least, named[name]


def test_no_upper_bound_replaces_the_torch_that_a_user_has():
    assert "<" not in next(one for one in PROJECT["dependencies"] if name_of(one) == "torch")
