"""docs/curation.md explains every reason for which curation drops a clip."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from cogvideox.chat.question import KINDS
from cogvideox.clip_folders.video_files import NO_FILE
from cogvideox.curation.worker import FAILED
from house.reading import PACKAGE, trees

CONSTANTS = {"NO_FILE": NO_FILE, "FAILED": FAILED}
FILES = ["clip_folders/video_files.py", "captioning/describe.py", "engines.py", "worker_pool.py"]
ARGUMENT = {"drop": 1, "_keep_best": 4, "JobOutcome": 1, "LeftOut": 1}
"""Which argument of a call is the reason; ``table.drop`` has the row before it."""


def constants(node: ast.expr) -> Iterator[str]:
    """The text of an argument where the code spells it out; others are handed on from where it does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.Name) and node.id in CONSTANTS:
        yield CONSTANTS[node.id]


def reasons(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func).partition(".")[0]
            index = ARGUMENT.get(name, len(node.args)) + (name == "drop" and owner == "table")
            if index < len(node.args):
                yield from constants(node.args[index])
        if isinstance(node, ast.Dict):  # the answer of a worker; a record of captioning
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("error", "reason"):
                    yield from constants(value)
        if isinstance(node, ast.FunctionDef) and node.name == "refuses":  # the gate
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and isinstance(each.value, ast.Tuple):
                    yield from constants(each.value.elts[0])


def test_every_reason_for_a_dropped_clip_is_explained():
    files = [*FILES, *(file for file in trees() if file.startswith("curation/"))]
    in_code = {reason for file in files for reason in reasons(trees()[file])}
    in_code |= {name for name, kind in KINDS.items() if not kind.pending}  # why there is no caption
    in_code |= {"<score> low", "<score> high"}  # thresholds._short
    page = (PACKAGE.parents[1] / "docs" / "curation.md").read_text(encoding="utf-8")
    table = page.partition("## Why a clip was dropped")[2].partition("\n## ")[0]
    in_page = {
        reason
        for line in table.splitlines()
        if line.startswith("| ")
        for reason in re.findall(r"`([^`]+)`", line.split("|")[2])
    }
    assert in_code >= {
        "slow",
        "too slow",
        "failed",
        "no ordinary file",
        "near copy",
        "caption does not match",
    }
    assert in_code - in_page == set(), "add a row to the table 'Why a clip was dropped' in docs/curation.md"
    assert in_page - in_code == set(), "remove it from the table: no code gives this reason"
