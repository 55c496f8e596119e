"""The size of the source: modules, lines, functions, and the files that two walks open.

    python benchmarks/size.py                  of this checkout
    python benchmarks/size.py OTHER/CHECKOUT   of another one, for a table of before and after

A file is opened by a walk when a function or class body of it runs: counted with a profiler on the shipped model, on a
CPU, imports left out.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WALKS = {
    "from a prompt to a video": [
        "generate",
        "a red circle moves to the right",
        "--steps",
        "2",
        "--out",
        "a.mp4",
    ],
    "from train to one step": [
        "train",
        "world-text",
        "--out",
        "run",
        "steps=1",
        "task.scenes=200",
        "task.batch=8",
    ],
}
TRACER = """
import json, runpy, sys, threading
root, seen = sys.argv[1], set()
def imported(frame):
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
def trace(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(root):  # 1: a function's own body
        if code.co_filename not in seen and not imported(frame):
            seen.add(code.co_filename)
sys.argv = ["cogvideox", *sys.argv[2:]]
sys.setprofile(trace)
threading.setprofile(trace)
try:
    runpy.run_module("cogvideox", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    sys.setprofile(None)
    print("FILES " + json.dumps(sorted(seen)), flush=True)
"""


def functions(package: Path) -> dict[str, int]:
    """Lines of every function, its docstring included, by 'file:name'."""
    result = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                result[f"{path.relative_to(package).as_posix()}:{node.name}:{node.lineno}"] = lines
    return result


def opened(checkout: Path, command: list[str]) -> list[str]:
    """Files of the package in which a function runs while a command works."""
    package = checkout / "src" / "cogvideox"
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", TRACER, str(package), *command]
        paths = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(words, cwd=folder, env=os.environ | paths, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("FILES ")]
    if not lines:
        raise SystemExit(run.stderr)
    return [str(Path(file).relative_to(package)) for file in json.loads(lines[0].removeprefix("FILES "))]


def main() -> None:
    """Print the figures as lines of a table."""
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    package = checkout / "src" / "cogvideox"
    files = sorted(package.rglob("*.py"))
    sizes = functions(package)
    largest = max(sizes, key=lambda name: sizes[name])
    print(f"| modules | {len(files)} |")
    print(f"| lines of src | {sum(len(path.read_text(encoding='utf-8').splitlines()) for path in files)} |")
    print(f"| functions | {len(sizes)} |")
    print(f"| median function, lines | {statistics.median(sizes.values()):g} |")
    print(f"| largest function, lines | {sizes[largest]} (`{largest.rsplit(':', 1)[0]}`) |")
    print(f"| functions of more than 40 lines | {sum(size > 40 for size in sizes.values())} |")
    for name, command in WALKS.items():
        print(f"| files that run {name} | {len(opened(checkout, command))} |", flush=True)


if __name__ == "__main__":
    main()
