"""Imports only go down. The floors of the house, drawn from the code itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cogvideox"

FLOORS = {
    1: "errors brief noise recompute cpu_ops",
    2: "files progress worker_pool gpu_kernels",
    3: "config clip_folders engines strength web",
    4: "video clip chat device",
    5: "vae transformer diffusion text perception world manifest",
    6: "spec",
    7: "model presets parallel",
    8: "conditioning checkpoints memory captioning evaluation",
    9: "generation curation quantise",
    10: "evaluate_model data",
    11: "training rating studio",
    12: "reproduce api",
    13: "cli",
    14: "__main__",
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
FACE = "__init__"  # lists what is public and loads it late, so it stands above everything


def module_name(path: Path) -> str:
    """'vae.conv' for src/cogvideox/vae/conv.py, 'vae' for a package's __init__, '__init__' for the face."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[0]


def resolve(target: str) -> str:
    """The longest known module that a dotted name (without 'cogvideox.') leads to."""
    parts = target.split(".") if target else []
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or FACE


def imported(path: Path, late: bool = True) -> set[str]:
    """Every module of ours that a file imports: anywhere in it, or (late false) only while it is loaded."""
    found: set[str] = set()
    package = path.relative_to(PACKAGE.parent).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        else:
            continue
        for name in names:
            if name == "cogvideox" or name.startswith("cogvideox."):
                found.add(resolve(name.removeprefix("cogvideox").removeprefix(".")))
    return found - {module_name(path)}


GRAPH = {module: imported(path) for module, path in MODULES.items()}
AT_LOAD = {module: imported(path, late=False) for module, path in MODULES.items()}


@pytest.mark.parametrize("name", sorted({room(module) for module in MODULES} - {FACE}))
def test_every_room_stands_on_a_floor(name):
    assert name in FLOOR_OF, f"{name} stands on no floor; give it one in {Path(__file__).name}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {FACE}))
def test_imports_only_go_down(module):
    here = room(module)
    upwards = [
        target
        for target in GRAPH[module]
        if room(target) != here and (target == FACE or FLOOR_OF[room(target)] >= FLOOR_OF[here])
    ]
    assert not upwards, f"{module} (floor {FLOOR_OF[here]}) imports {upwards}"


def test_imports_never_lead_back():
    """Not inside a package, not by an import in a function, not by one for type checking alone."""
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(GRAPH[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(set(MODULES) - {FACE}):
        visit(module, ())
    assert done >= set(MODULES) - {FACE}


def test_curation_and_evaluation_judge_anyones_videos():
    """They never reach our model, not even through another room."""

    def reach(module: str) -> set[str]:
        seen, todo = set(), [module]
        while todo:
            for target in GRAPH[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return {room(target) for target in seen}

    ours = {"vae", "transformer", "model", "generate", "checkpoints"}
    for module in MODULES:
        if room(module) in {"curation", "evaluation"}:
            assert not reach(module) & ours, module
