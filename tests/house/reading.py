"""What the house tests read out of the source: modules, public names, docstrings. Parsed once, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cogvideox"
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

BANNED = {
    name
    for word in ("place", "part", "piece", "row", "found", "made", "told", "said")
    for name in (word, f"{word}s")
}
"""Words that stood for ten things each. Allowed for local variables, where five lines show what is meant."""


@cache
def trees() -> dict[str, ast.Module]:
    """Every file of the package, 'vae/conv.py', and its syntax tree."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def public_classes() -> dict[str, list[str]]:
    """Name of each public class -> the files that define one of that name."""
    result: dict[str, list[str]] = {}
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                result.setdefault(node.name, []).append(file)
    return result


def banned_names(file: str) -> set[str]:
    """Banned words that a file uses as the name of a module, function, class, attribute, setting or parameter."""
    return {name for name in _defined(trees()[file]) if name.lstrip("_") in BANNED} | (
        {Path(file).stem} & BANNED
    )


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in [tree, *ast.walk(tree)]:
        if isinstance(node, ast.Module | ast.ClassDef):
            for each in node.body:
                yield from _named_by(each)
        if isinstance(node, FUNCTION):
            given = node.args
            for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
                if one is not None:
                    yield one.arg
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _named_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, FUNCTION | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def undocumented(file: str) -> set[str]:
    """Public names of a file, 'Class.method', that no docstring explains by itself."""
    result = set()
    for node in trees()[file].body:
        if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith("_"):
            if not explains(ast.get_docstring(node)):
                result.add(node.name)
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if (
                    isinstance(method, FUNCTION)
                    and not method.name.startswith("_")
                    and not _is_overload(method)
                ):
                    inherited = explains(ast.get_docstring(method)) or _inherits(node, method.name)
                    if not inherited:
                        result.add(f"{node.name}.{method.name}")
    return result


def explains(docstring: str | None) -> bool:
    """Whether a docstring has at least four words and is more than a pointer to another one."""
    if docstring is None or len(docstring.split()) < 4:
        return False
    first = docstring.split()[0].lower()
    return not (first in ("see", "as") and len(docstring.split()) < 9)


def _is_overload(method: FUNCTION) -> bool:
    shown = {ast.unparse(each).rsplit(".", 1)[-1] for each in method.decorator_list}
    return bool(shown & {"overload", "setter", "deleter"})


@cache
def _classes() -> dict[str, list[ast.ClassDef]]:
    result: dict[str, list[ast.ClassDef]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                result.setdefault(node.name, []).append(node)
    return result


def _inherits(owner: ast.ClassDef, method: str) -> bool:
    """Whether a base class of ours explains the method, so that a tooltip shows that docstring."""
    for base in owner.bases:
        name = ast.unparse(base).split("[")[0].rsplit(".", 1)[-1]
        for other in _classes().get(name, ()):
            for each in other.body:
                if isinstance(each, FUNCTION) and each.name == method and explains(ast.get_docstring(each)):
                    return True
            if other is not owner and _inherits(other, method):
                return True
    return False


def unmapped(package: str) -> set[str]:
    """Modules and packages in a package ('' for cogvideox itself) that its ``__init__`` does not name."""
    folder = PACKAGE / package
    text = ast.get_docstring(trees()[f"{package}/__init__.py".lstrip("/")]) or ""
    inside = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    inside |= {path.parent.name for path in folder.glob("*/__init__.py")}
    return {name for name in inside if f"`{name}`" not in text and f"`{name}/`" not in text}


def packages() -> list[str]:
    """Every package below cogvideox that has modules beside its ``__init__``."""
    named = [file.removesuffix("/__init__.py") for file in trees() if file.endswith("/__init__.py")]
    return [
        name
        for name in named
        if len([*(PACKAGE / name).glob("*.py"), *(PACKAGE / name).glob("*/__init__.py")]) > 1
    ]


def typing_cycles() -> dict[str, set[str]]:
    """Modules from which imports lead back to them, counting those for type checking -> the others of the circle."""
    graph = {file: _imports_of(file) for file in trees()}
    result = {}
    for start in graph:
        reached = _reach(graph, start)
        if start in reached:
            result[start] = {other for other in reached if start in _reach(graph, other)} - {start}
    return result


def _reach(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for target in graph[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def _imports_of(file: str) -> set[str]:
    """Files that a file imports when it is loaded or type-checked; what functions import later does not count."""
    result: set[str] = set()
    folder = file.rsplit("/", 1)[0] if "/" in file else ""
    todo = list(trees()[file].body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If | ast.Try | ast.With):
            todo += [each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)]
        if isinstance(node, ast.ImportFrom):
            above = folder.split("/") if folder else []
            base = ["cogvideox", *above[: len(above) - node.level + 1]] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                result |= {
                    target for target in [_file_of(f"{stem}.{alias.name}") or _file_of(stem)] if target
                }
        elif isinstance(node, ast.Import):
            result |= {target for alias in node.names if (target := _file_of(alias.name))}
    return result - {file, "__init__.py"}


def _file_of(dotted: str) -> str | None:
    """'cogvideox.vae.conv' -> 'vae/conv.py'; None for what is no module of ours."""
    if not dotted.startswith("cogvideox."):
        return None
    path = dotted.removeprefix("cogvideox.").replace(".", "/")
    return next((each for each in (f"{path}.py", f"{path}/__init__.py") if each in trees()), None)


def _by_file(measure: Callable[[str], set[str]], names: Iterable[str]) -> dict[str, set[str]]:
    return {name: result for name in names if (result := measure(name))}


MEASURED: dict[str, Callable[[], dict[str, set[str]]]] = {
    "BANNED_NAMES": lambda: _by_file(banned_names, trees()),
    "UNDOCUMENTED": lambda: _by_file(undocumented, trees()),
    "UNMAPPED": lambda: _by_file(unmapped, packages()),
    "CYCLES": lambda: {file.split("/")[0]: {"circular"} for file in typing_cycles()},
}
"""What tests/house/debts.py lists, as it is today."""
