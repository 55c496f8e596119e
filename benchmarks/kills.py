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
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cogvideox.curation import engines, worker  # noqa: E402
from cogvideox.curation.duplicates import Hashes  # noqa: E402
from cogvideox.curation.recipe import tiny  # noqa: E402
from cogvideox.curation.report import dropped_rows, kept_rows  # noqa: E402
from cogvideox.curation.run import curate  # noqa: E402
from cogvideox.curation.scores import Light  # noqa: E402
from support.films import take, write  # noqa: E402

RECIPE = tiny().model_copy(update={"steps": (Light(), Hashes()), "per_shard": 50})


class Here:
    """Does jobs in this process: the kill then hits the work itself, not only who waits for it."""

    def run(self, jobs, order):
        for job in jobs:
            worker.do(job, order)
            yield engines.JobOutcome(job)


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


def start(root: Path, out: Path, engine) -> int:
    """Start a run in a process group of its own; returns its process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            curate(root, out, RECIPE, engine)
        finally:
            os._exit(0)
    return child


def spent(process: int) -> float:
    """Processor seconds of a process and of its children that live; what is gone has none."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return sum(_ticks(one) for one in (process, *children)) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _ticks(process: int | str) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)


def killed(child: int, after: float) -> bool:
    """SIGKILL ``child`` and its workers once they have worked ``after`` seconds; False when it ended before that.

    Instants are drawn in processor time: on a busy machine they spread over the work, not over the waiting.
    """
    while spent(child) < after:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def stage(out: Path, films: int) -> str:
    """What a run was at when it was killed, by the marks it left."""
    if sum(1 for _ in (out / "work").joinpath("measured").rglob("*.json")) < films:
        return "measuring"
    return "accounting" if (out / "clips.parquet").exists() else "cutting and packing"


def fates(root: Path, out: Path) -> tuple[int, int]:
    """(kept, dropped) films; raises AssertionError unless every film is in exactly one of the two, once."""
    kept = [row["path"] for row in kept_rows(out, ["path"])]
    dropped = [row["source"]["path"] for row in dropped_rows(out)]
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.mp4"))
    assert sorted(kept + dropped) == names, (len(kept), len(dropped), len(names))
    return len(kept), len(dropped)


def run(count: int, kills: int, folder: Path, seed: int = 0) -> dict:
    """The counts; raises AssertionError when bytes differ or a film is missing or doubled."""
    root, out = films(folder, count), folder / "killed"
    curate(films(folder / "few", 10), folder / "first", RECIPE, Here())  # imports what forks then share
    began = time.process_time()
    curate(root, folder / "whole", RECIPE, Here())
    most = 0.2 + 2 * (time.process_time() - began) / kills
    rng, done, finished, at = random.Random(seed), 0, 0, Counter()
    while done < kills:
        workers = done % 10 == 9
        child = start(root, out, engines.LocalEngine(1) if workers else Here())
        if killed(child, rng.uniform(0, most + 2.0 * workers)):  # workers import for 2 s before they work
            done += 1
            at[stage(out, count)] += 1
            if done % 10 == 0:
                print(f"{done} kills, {finished} runs ended before theirs, {dict(at)}", file=sys.stderr)
        else:
            finished += 1  # it was faster than the kill: some of its work has to be done again
            for mark in sorted((out / "work").rglob("*.json"))[:: 1 + finished % 3]:
                mark.unlink()
            (out / "clips.parquet").unlink()
    curate(root, out, RECIPE, Here())
    first, second = digest(folder / "whole"), digest(out)
    assert first == second, sorted(name for name in first | second if first.get(name) != second.get(name))
    kept, dropped = fates(root, out)
    return {
        "films": count,
        "kills": done,
        "killed while": dict(at),
        "ended before the kill": finished,
        "files with the same bytes": len(first),
        "kept": kept,
        "dropped": dropped,
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
