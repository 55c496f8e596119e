"""Documents say what is true: links lead somewhere, commands are understood, Python names exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from cogvideox.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path, program: str) -> list[str]:
    """The lines of bash blocks that begin with a program, continued lines joined."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().split(" ")[0] == program]


def anchors(page: Path) -> set[str]:
    """The names that headings of a page can be linked by."""
    heads = re.findall(r"^#+\s+(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"\b(?:tests|benchmarks|examples|src)/[\w./-]*\w", page.read_text(encoding="utf-8"))
    assert not [path for path in sorted(set(named)) if not (ROOT / path).exists()]


def test_every_page_can_be_reached_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        text = page.read_text(encoding="utf-8")
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(text)]
    assert set(PAGES) - seen == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_knows_every_target(page):
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(blocks(page, "bash"))
    assert set(re.findall(r"(?:^|&& )make ([a-z]+)", text, re.MULTILINE)) <= rules


def launched(page: Path) -> list[str]:
    """The same lines for what a launcher starts (``torchrun ... -m cogvideox train ...``)."""
    return ["cogvideox" + line.partition("-m cogvideox")[2] for line in commands(page, "torchrun")]


COMMANDS = [(page, line) for page in PAGES for line in commands(page, "cogvideox") + launched(page)]
TRAININGS = [
    (page, line) for page, line in COMMANDS if line.startswith("cogvideox train ") and ".yaml" not in line
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{name_of(p)}: {c}" for p, c in COMMANDS])
def test_the_command_line_understands_what_a_page_shows(page, line):
    """Verbs, flags and the types of their values; nothing is made."""
    command, name, rest = typer.main.get_command(app), "cogvideox", shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands") and rest:
        name, *rest = rest
        assert name in command.commands, f"{name} is not a verb"
        command = command.commands[name]
    assert command.make_context(name, rest) is not None


@pytest.mark.parametrize(("page", "line"), TRAININGS, ids=[f"{name_of(p)}: {c}" for p, c in TRAININGS])
def test_recipes_and_settings_that_a_page_shows_exist_and_have_an_effect(page, line):
    from cogvideox.training.recipes import recipe

    words = [word for word in shlex.split(line, comments=True)[2:] if "=" in word or not word.startswith("-")]
    name, settings = words[0], [word for word in words[1:] if "=" in word and not word.startswith("-")]
    assert recipe(name).override(settings) is not None


PYTHON = [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[name_of(page) for page, _ in PYTHON])
def test_names_that_a_page_imports_exist(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            room = importlib.import_module(node.module)
            assert not [alias.name for alias in node.names if not hasattr(room, alias.name)]
    shown = {node.attr for node in ast.walk(ast.parse(text)) if is_face(node)}
    if shown:
        assert shown <= set(importlib.import_module("cogvideox").__all__)


def is_face(node: ast.AST) -> bool:
    """Whether a node is ``cogvideox.something``."""
    return (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cogvideox"
    )


def test_the_readme_shows_the_two_commands_first():
    first = blocks(ROOT / "README.md", "bash")[0]
    assert "make video" in first and "make test" in first


def test_the_readme_says_what_each_extra_is_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(extras) <= named


def test_continuous_integration_runs_the_readmes_test_command():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert sys.version_info >= (3, 11)
