"""One list of endings of videos and pictures in the whole package: ``files/paths.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cogvideox"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
SIGNS = {
    ".mov",
    ".webm",
    ".avi",
    ".jpeg",
    ".webp",
    ".bmp",
}  # endings that nothing here writes: only a list has several


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"files/paths.py"}))
def test_endings_are_listed_in_one_place(name):
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            listed = {each.value for each in node.elts if isinstance(each, ast.Constant)}
            assert len(listed & SIGNS) < 2, f"{name} line {node.lineno}: take them from files/paths.py"
