"""Engines: who does the jobs. A pool of processes here, or Ray Data on many machines; the files they make are the same.

A film may crash its worker, or keep it busy for ever. Then that film is given up by name, the worker is replaced, and
the others never notice.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGXCPU, Signals
from typing import Any, Protocol

from cogvideox import errors
from cogvideox.curation.confined import clean_environment
from cogvideox.curation.worker import WorkerConfig
from cogvideox.errors import CogVideoXError, DependencyError

GPU_SHARE = (
    0.25  # of a GPU for a task of Ray whose steps need one: Ray hides GPUs from tasks that ask for none
)
DEATHS = 2  # a job is given up when so many workers died of it


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job: nothing to say, or why it was given up."""

    job: dict[str, Any]
    error: str = ""
    detail: str = ""


class CurationEngine(Protocol):
    """Does jobs in any order; each exactly once, unless its worker dies."""

    def run(self, jobs: Iterable[dict[str, Any]], order: WorkerConfig) -> Iterator[JobOutcome]:
        """Outcomes as they come. Raises what a worker met that is no film's fault: OutputError for a full disk."""


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0)) or 1

    def run(self, jobs: Iterable[dict[str, Any]], order: WorkerConfig) -> Iterator[JobOutcome]:
        """See CurationEngine."""
        with _Pool(self.workers, order) as pool:
            yield from pool.run(iter(jobs))


class RayEngine:
    """Ray Data: jobs spread over a cluster. The folders must be seen under the same paths on every node."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    def run(self, jobs: Iterable[dict[str, Any]], order: WorkerConfig) -> Iterator[JobOutcome]:
        """See CurationEngine. Raises DependencyError when ray is not installed."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError:
            raise DependencyError("ray is not installed; install cogvideox[cluster]") from None
        lines = [{"job": json.dumps(job)} for job in jobs]
        if not lines:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = max(1, min(len(lines), 4 * workers))
        rows = ray.data.from_items(lines, override_num_blocks=blocks).map_batches(
            _ray_batch,
            fn_kwargs={"order": order.model_dump_json()},
            **_needs(order, -(-len(lines) // blocks)),
        )
        for row in rows.iter_rows():
            if row["stop"]:
                raise _as_raised(row["kind"], row["stop"])
            yield JobOutcome(json.loads(row["job"]), row["error"], row["detail"])


def _needs(order: WorkerConfig, jobs: int) -> dict[str, Any]:
    """What a task of Ray asks for; one with a GPU must say how many jobs it takes."""
    return {"batch_size": jobs, "num_gpus": GPU_SHARE} if order.recipe.on_gpu() else {"batch_size": None}


def _ray_batch(batch: dict[str, Any], order: str) -> dict[str, list[str]]:
    """Jobs of one task of Ray: a pool of one process, so that a film that crashes does not take the task with it."""
    jobs = [json.loads(job) for job in batch["job"]]
    outcomes: list[JobOutcome] = []
    stop = kind = ""
    try:
        with _Pool(1, WorkerConfig.parse(json.loads(order))) as pool:
            outcomes.extend(pool.run(iter(jobs)))
    except CogVideoXError as error:
        stop, kind = str(error), type(error).__name__
        outcomes = [JobOutcome(job) for job in jobs]
    return {
        "job": [json.dumps(outcome.job) for outcome in outcomes],
        "error": [outcome.error for outcome in outcomes],
        "detail": [outcome.detail for outcome in outcomes],
        "stop": [stop] * len(outcomes),
        "kind": [kind] * len(outcomes),
    }


class _Child:
    """One worker process and the job it is at."""

    def __init__(self, order: WorkerConfig) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cogvideox.curation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **clean_environment(os.environ, order.recipe.key_variables()),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": _import_path(),
            },
        )
        self.job: dict[str, Any] | None = None
        self.ready = False
        self.rest = b""  # of a line that is not whole yet
        self.deadline = 0.0
        self.patience = order.recipe.limits.wall_seconds
        self._tell(order.model_dump(mode="json"))

    def give(self, job: dict[str, Any]) -> None:
        self.job, self.deadline = job, time.monotonic() + self.patience
        self._tell(job)

    def _tell(self, value: dict[str, Any]) -> None:
        try:
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; the end of its answers says so

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class _Pool:
    """Workers that share one queue of jobs."""

    def __init__(self, workers: int, order: WorkerConfig) -> None:
        self.workers, self.order = workers, order
        self.children: list[_Child] = []
        self.again: deque[dict[str, Any]] = deque()
        self.deaths: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *what: object) -> None:
        for child in self.children:
            child.end()
        self.selector.close()

    def run(self, jobs: Iterator[dict[str, Any]]) -> Iterator[JobOutcome]:
        """Outcomes as they come."""
        while True:
            self._feed(jobs)
            busy = [child for child in self.children if child.job is not None]
            if not busy:
                return
            wait = max(0.0, min(child.deadline for child in busy) - time.monotonic())
            for key, _ in self.selector.select(wait):
                yield from self._hear(key.data)
            for child in [one for one in self.children if one.job and time.monotonic() >= one.deadline]:
                job = child.job
                self._bury(child)
                yield JobOutcome(
                    job, "too slow", f"took more than {self.order.recipe.limits.wall_seconds:g} s"
                )

    def _feed(self, jobs: Iterator[dict[str, Any]]) -> None:
        idle = deque(child for child in self.children if child.job is None)
        while idle or len(self.children) < self.workers:
            job = self.again.popleft() if self.again else next(jobs, None)
            if job is None:
                return
            child = idle.popleft() if idle else self._hire()
            child.give(job)

    def _hire(self) -> _Child:
        child = _Child(self.order)
        self.children.append(child)
        self.selector.register(child.process.stdout, selectors.EVENT_READ, child)
        return child

    def _bury(self, child: _Child) -> int:
        """Remove a worker; returns how it ended."""
        self.selector.unregister(child.process.stdout)
        self.children.remove(child)
        ended = child.process.poll()
        if ended is None:
            try:
                ended = child.process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                ended = 0
        child.end()
        return ended

    def _hear(self, child: _Child) -> Iterator[JobOutcome]:
        """Every line that is there: a worker may say that it is ready and that it is done before anybody looks."""
        told = os.read(child.process.stdout.fileno(), 1 << 16)
        if not told and not child.ready:
            raise DependencyError(
                f"a worker could not start; run '{Path(sys.executable).name} -m cogvideox.curation.worker' to see why"
            )
        if not told:
            yield from self._died(child.job, self._bury(child))
            return
        *lines, child.rest = (child.rest + told).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if answer.get("stop"):
                raise _as_raised(answer["kind"], answer["stop"])
            if not child.ready:
                child.ready = True
                continue
            job, child.job = child.job, None
            yield JobOutcome(job, answer.get("error", ""), answer.get("detail", ""))

    def _died(self, job: dict[str, Any] | None, ended: int) -> Iterator[JobOutcome]:
        if job is None:
            return
        if ended == -SIGXCPU:
            limit = self.order.recipe.limits.cpu_seconds
            yield JobOutcome(job, "too slow", f"used more than {limit} s of processor time")
            return
        key = f"{job['do']} {job['path']}"
        self.deaths[key] = self.deaths.get(key, 0) + 1
        if self.deaths[key] < DEATHS:
            self.again.append(job)
            return
        how = Signals(-ended).name if ended < 0 else f"exit code {ended}"
        yield JobOutcome(job, "crashed", f"{DEATHS} workers died of it ({how})")


def _as_raised(kind: str, text: str) -> CogVideoXError:
    """The error that a worker met, in this process."""
    return getattr(errors, kind)(text)


def _import_path() -> str:
    """Where this package lies, first: a worker must run the code its parent runs."""
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([here, rest]) if rest else here
