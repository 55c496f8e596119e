"""Kill a curation again and again, then let it finish: the result must have the bytes of a run nobody touched.

python benchmarks/kills.py --films 1000 --kills 100

Each attempt is a process of its own that ends by SIGKILL at a random instant, with its workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cogvideox.curation import engines, work  # noqa: E402
from cogvideox.curation.prints import Prints  # noqa: E402
from cogvideox.curation.recipes import tiny  # noqa: E402
from cogvideox.curation.scores import Light  # noqa: E402
from cogvideox.data.curated import curate  # noqa: E402
from films import take, write  # noqa: E402

RECIPE = tiny().model_copy(update={"steps": (Light(), Prints()), "per_shard": 50})


class Here:
    """Does jobs in this process: the kill then hits the work itself, not only who waits for it."""

    def run(self, jobs, order):
        for job in jobs:
            work.do(job, order)
            yield engines.Outcome(job)


def films(folder: Path, count: int) -> Path:
    """Small films, each unlike the others; every tenth is broken."""
    seed = write(folder / "seed.mp4", take(0, 6)).read_bytes()
    for number in range(count):
        file = folder / "films" / f"{number % 10}" / f"{number:05d}.mp4"
        if number % 10 == 9:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(seed[: 400 + number])
        else:
            write(file, take(number, 6, speed=1 + number % 5))
    return folder / "films"


def digest(out: Path) -> dict[str, str]:
    """Name -> hash of every file of a result, without its marks."""
    names = [p for p in sorted(out.rglob("*")) if p.is_file() and "work" not in p.relative_to(out).parts]
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in names
        if p.name != ".lock"
    }


def attempt(root: Path, out: Path, engine) -> int:
    """Start a run in a process group of its own; returns its process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            curate(root, out, RECIPE, engine)
        finally:
            os._exit(0)
    return child


def run(count: int, kills: int, folder: Path, seed: int = 0) -> dict:
    """The counts; raises AssertionError when bytes differ or a film is missing or doubled."""
    root = films(folder, count)
    began = time.monotonic()
    curate(root, folder / "whole", RECIPE, Here())
    whole = time.monotonic() - began
    rng, done, finished = random.Random(seed), 0, 0
    while done < kills:
        engine = engines.LocalEngine(1) if done % 5 == 4 else Here()
        child = attempt(root, folder / "killed", engine)
        time.sleep(rng.uniform(0.02, max(0.3, 2.5 * whole / kills)) + (1.0 if done % 5 == 4 else 0.0))
        if os.waitpid(child, os.WNOHANG)[0]:
            finished += 1  # it was faster than the kill: begin again with nothing
            for mark in sorted((folder / "killed" / "work").rglob("*.json"))[:: 2 + done % 3]:
                mark.unlink()
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
    curate(root, folder / "killed", RECIPE, Here())
    first, second = digest(folder / "whole"), digest(folder / "killed")
    assert first == second, sorted(name for name in first | second if first.get(name) != second.get(name))
    summary = json.loads((folder / "killed" / "summary.json").read_bytes())
    assert summary["films"] == count and summary["clips"] >= count
    return {
        "films": count,
        "kills": done,
        "finished before the kill": finished,
        "files": len(first),
        "kept": summary["kept"],
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(chosen.films, chosen.kills, Path(folder))))


if __name__ == "__main__":
    main()
