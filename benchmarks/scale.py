"""Many GPUs, many prompts: idle time at the end and the cost of lost nodes, simulated with the queue that runs them.

python benchmarks/scale.py                                     256 GPUs, 100,000 prompts; seconds on a CPU
python benchmarks/scale.py --gpus 64 --prompts 2000 --seconds 49 --node-days 5
python benchmarks/scale.py --records out/*.json                seconds as recorded beside videos that were made

Discrete events: a worker loads its weights, then takes jobs of ``worker_pool.LongestFirst`` until none is left. A
node dies now and then (exponential times): its GPUs lose the videos they were at, which go back to the queue, and come
back after ``--restart`` seconds with weights to load. Nothing else is lost, for each video is whole in its file or not
there. "in the file's order" is the same without the sorting. Seconds of a video are given or recorded, never guessed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from cogvideox.worker_pool import CostedJob, JobQueue, LongestFirst

MIX = ((1.0, 0.7), (2.2, 0.2), (4.1, 0.1))
"""(cost of a video in units of ``--seconds``, its share): most as the paper's, some longer or larger."""


class InOrder(JobQueue):
    """The order of the file, with costs."""

    def __init__(self, jobs: list[CostedJob]) -> None:
        self._coming, self._waiting = iter(()), deque(jobs)


@dataclass
class Cluster:
    """GPUs in nodes of eight, and what a failure costs. Times in seconds; ``node_life`` is a mean, 0: none dies."""

    gpus: int
    load: float
    node_life: float
    restart: float
    spread: float = 0.03  # a video's time varies by so much, and a GPU's speed by as much again


@dataclass
class Outcome:
    """Seconds until the last video, and GPU-seconds by what they were spent on."""

    wall: float
    useful: float
    loading: float
    lost: float
    down: float
    failures: int
    gpus: int

    def row(self, name: str) -> str:
        """One line of the table."""
        total = self.wall * self.gpus
        idle = total - self.useful - self.loading - self.lost - self.down
        shares = (
            f"{100 * each / total:.2f} %" for each in (self.useful, idle, self.loading, self.lost, self.down)
        )
        return f"| {name} | {self.wall / 3600:.1f} h | {' | '.join(shares)} | {self.failures} |"


def simulate(queue: JobQueue, cluster: Cluster, seed: int = 0) -> Outcome:
    """Run the queue to its end."""
    draw = random.Random(seed)
    speed = [draw.gauss(1, cluster.spread) for _ in range(cluster.gpus)]
    done = Outcome(0.0, 0.0, 0.0, 0.0, 0.0, 0, cluster.gpus)
    life = [0] * cluster.gpus  # how often a GPU's node has died: events of an earlier life are void
    at: list[tuple[CostedJob, float] | None] = [None] * cluster.gpus
    idle: set[int] = set()
    events: list[tuple[float, int, str, int, int]] = []
    number = 0

    def push(when: float, what: str, who: int, of: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, what, who, of))

    def take(gpu: int, now: float) -> None:
        job = queue.take("")
        if job is None:
            idle.add(gpu)
            return
        idle.discard(gpu)
        at[gpu] = job, now
        push(now + job.cost * speed[gpu] * max(0.5, draw.gauss(1, cluster.spread)), "done", gpu, life[gpu])

    for gpu in range(cluster.gpus):
        push(cluster.load, "loaded", gpu, 0)
        done.loading += cluster.load
    if cluster.node_life:
        for node in range(-(-cluster.gpus // 8)):
            push(draw.expovariate(1 / cluster.node_life), "died", node, 0)
    while queue.has(1) or any(at):
        now, _, what, who, of = heapq.heappop(events)
        if what == "died":
            done.failures += 1
            for gpu in range(8 * who, min(8 * who + 8, cluster.gpus)):
                life[gpu] += 1
                idle.discard(gpu)
                if (lost := at[gpu]) is not None:
                    queue.put_back(lost[0])
                    done.lost += now - lost[1]
                    at[gpu] = None
                push(now + cluster.restart + cluster.load, "loaded", gpu, life[gpu])
                done.down += cluster.restart
                done.loading += cluster.load
            push(now + cluster.restart + draw.expovariate(1 / cluster.node_life), "died", who, 0)
            for gpu in list(idle):
                take(gpu, now)
        elif of == life[who]:
            if what == "done":
                current = at[who]
                assert current is not None
                done.useful += now - current[1]
                done.wall, at[who] = now, None
            take(who, now)
    return done


def costs_of(records: list[Path]) -> list[float]:
    """Seconds of videos, from the records beside them."""
    runs = [json.loads(path.read_text()).get("run") for path in records]
    return [float(run["seconds"]) for run in runs if run]


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--gpus", type=int, default=256)
    asked.add_argument("--prompts", type=int, default=100_000)
    asked.add_argument(
        "--seconds", type=float, default=113.0, help="of one video; default: 5B on the paper's H800"
    )
    asked.add_argument(
        "--records", type=Path, nargs="*", default=[], help="records whose seconds are drawn from"
    )
    asked.add_argument("--load", type=float, default=90.0, help="seconds to load the weights")
    asked.add_argument("--restart", type=float, default=600.0, help="seconds until a lost node is back")
    asked.add_argument("--node-days", type=float, default=30.0, help="mean days until a node dies")
    options = asked.parse_args()
    draw = random.Random(1)
    measured = costs_of(options.records)
    if measured:
        costs = draw.choices(measured, k=options.prompts)
    else:
        units, shares = zip(*MIX, strict=True)
        costs = [options.seconds * each for each in draw.choices(units, shares, k=options.prompts)]
    jobs = [CostedJob({"line": line}, cost) for line, cost in enumerate(costs, 1)]
    print(f"{options.prompts:,} videos on {options.gpus} GPUs, {sum(costs) / 3600:,.0f} GPU-hours of work\n")
    print("| order, mean days until a node dies | wall | useful | idle | loading | lost | down | failures |")
    print("|---|---|---|---|---|---|---|---|")
    for days in (0.0, options.node_days, 1.0):
        cluster = Cluster(options.gpus, options.load, days * 86400, options.restart)
        name = f"{days:g}" if days else "none dies"
        print(simulate(LongestFirst(jobs), cluster).row(f"longest first, {name}"))
        print(simulate(InOrder(jobs), cluster).row(f"in the file's order, {name}"))


if __name__ == "__main__":
    main()
