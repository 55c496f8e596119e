"""Engines: who does the jobs. A pool of processes here, or Ray Data on many machines; the files they make are the same.

A video may crash its worker, or keep it busy for ever. Then that video is given up by name, the worker is replaced, and
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
from cogvideox.files import parse_json

GPU_SHARE = (
    0.25  # of a GPU for a task of Ray whose steps need one: Ray hides GPUs from tasks that ask for none
)
DEATHS = 2  # a job is given up when so many workers died of it


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended: without an ``error``, or given up for one (a short name) with its ``detail``."""

    job: dict[str, Any]
    error: str = ""
    detail: str = ""


class CurationEngine(Protocol):
    """Does jobs in any order; each exactly once, unless its worker dies."""

    def run(self, jobs: Iterable[dict[str, Any]], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Outcomes as they come. Raises what a worker met that is no video's fault: OutputError for a full disk."""


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0)) or 1

    def run(self, jobs: Iterable[dict[str, Any]], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Run the jobs in worker processes here; outcomes as they come. Raises as CurationEngine says."""
        with _Pool(self.workers, config) as pool:
            yield from pool.run(iter(jobs))


class RayEngine:
    """Ray Data: jobs spread over a cluster. The folders must be seen under the same paths on every node."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    def run(self, jobs: Iterable[dict[str, Any]], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Run the jobs as tasks of Ray Data; outcomes as they come. Raises DependencyError without ray."""
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
        need: dict[str, Any] = {"batch_size": None}
        if config.recipe.on_gpu():  # a task with a GPU must say how many jobs it takes
            need = {"batch_size": -(-len(lines) // blocks), "num_gpus": GPU_SHARE}
        rows = ray.data.from_items(lines, override_num_blocks=blocks).map_batches(
            _ray_batch, fn_kwargs={"config": config.model_dump_json()}, **need
        )
        for row in rows.iter_rows():
            if row["stop"]:
                raise _as_raised(row["kind"], row["stop"])
            yield JobOutcome(json.loads(row["job"]), row["error"], row["detail"])


def _ray_batch(batch: dict[str, Any], config: str) -> dict[str, list[str]]:
    """Jobs of one task of Ray: a pool of one process, so that a video that crashes does not take the task with it."""
    jobs = [json.loads(job) for job in batch["job"]]
    outcomes: list[JobOutcome] = []
    stop = kind = ""
    try:
        with _Pool(1, WorkerConfig.parse(json.loads(config))) as pool:
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


class _Worker:
    """One worker process and the job it is at."""

    def __init__(self, config: WorkerConfig) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cogvideox.curation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **clean_environment(os.environ, config.recipe.key_variables()),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": _import_path(),
            },
        )
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.job: dict[str, Any] | None = None
        self.ready = False
        self.partial_line = b""  # of a line that is not whole yet
        self.deadline = 0.0
        self.time_limit = config.recipe.limits.wall_seconds
        self._send(config.model_dump(mode="json"))

    def start(self, job: dict[str, Any]) -> None:
        """Hand it a job."""
        self.job, self.deadline = job, time.monotonic() + self.time_limit
        self._send(job)

    def _send(self, value: dict[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(value).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            return  # it has died; the end of its answers says so

    def end(self) -> None:
        """Kill it and close its pipes."""
        self.process.kill()
        self.process.wait()
        self.stdin.close()
        self.stdout.close()


class _Pool:
    """Workers that share one queue of jobs."""

    def __init__(self, workers: int, config: WorkerConfig) -> None:
        self.workers, self.config = workers, config
        self.processes: list[_Worker] = []
        self.retry: deque[dict[str, Any]] = deque()
        self.deaths: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *what: object) -> None:
        for worker in self.processes:
            worker.end()
        self.selector.close()

    def run(self, jobs: Iterator[dict[str, Any]]) -> Iterator[JobOutcome]:
        """Outcomes as they come."""
        while True:
            self._hand_out(jobs)
            busy = [worker for worker in self.processes if worker.job is not None]
            if not busy:
                return
            wait = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            for key, _ in self.selector.select(wait):
                yield from self._read_answers(key.data)
            for worker in [*self.processes]:
                if worker.job is not None and time.monotonic() >= worker.deadline:
                    self._remove_worker(worker)
                    yield JobOutcome(
                        worker.job, "too slow", f"a worker needed more than {worker.time_limit:g} s for it"
                    )

    def _hand_out(self, jobs: Iterator[dict[str, Any]]) -> None:
        idle = deque(worker for worker in self.processes if worker.job is None)
        while idle or len(self.processes) < self.workers:
            job = self.retry.popleft() if self.retry else next(jobs, None)
            if job is None:
                return
            worker = idle.popleft() if idle else self._add_worker()
            worker.start(job)

    def _add_worker(self) -> _Worker:
        worker = _Worker(self.config)
        self.processes.append(worker)
        self.selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return worker

    def _remove_worker(self, worker: _Worker) -> int:
        """Remove a worker; returns how it ended."""
        self.selector.unregister(worker.stdout)
        self.processes.remove(worker)
        ended = worker.process.poll()
        if ended is None:
            try:
                ended = worker.process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                ended = 0
        worker.end()
        return ended

    def _read_answers(self, worker: _Worker) -> Iterator[JobOutcome]:
        """Handle all lines in the pipe at once: a worker may have said that it is ready and that it is done."""
        data = os.read(worker.stdout.fileno(), 1 << 16)
        if not data and not worker.ready:
            raise DependencyError(
                f"a worker could not start; run '{Path(sys.executable).name} -m cogvideox.curation.worker' to see why"
            )
        if not data:
            yield from self._worker_died(worker.job, self._remove_worker(worker))
            return
        *lines, worker.partial_line = (worker.partial_line + data).split(b"\n")
        for line in lines:
            answer = parse_json(line.decode("utf-8", "replace"), "the answer of a worker")
            if answer.get("stop"):
                raise _as_raised(answer["kind"], answer["stop"])
            if not worker.ready:
                worker.ready = True
                continue
            job, worker.job = worker.job, None
            assert job is not None, "a worker that is ready answers to jobs only"
            yield JobOutcome(job, answer.get("error", ""), answer.get("detail", ""))

    def _worker_died(self, job: dict[str, Any] | None, ended: int) -> Iterator[JobOutcome]:
        if job is None:
            return
        if ended == -SIGXCPU:
            limit = self.config.recipe.limits.cpu_seconds
            yield JobOutcome(job, "too slow", f"a worker used more than {limit} s of processor time")
            return
        key = f"{job['do']} {job['path']}"
        self.deaths[key] = self.deaths.get(key, 0) + 1
        if self.deaths[key] < DEATHS:
            self.retry.append(job)
            return
        how = Signals(-ended).name if ended < 0 else f"exit code {ended}"
        yield JobOutcome(job, "crashed", f"{DEATHS} workers died of it ({how})")


def _as_raised(kind: str, text: str) -> CogVideoXError:
    """The error that a worker met, in this process."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, CogVideoXError):
        return found(text)
    return CogVideoXError(text)


def _import_path() -> str:
    """Where this package lies, first: a worker must run the code its parent runs."""
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([here, rest]) if rest else here
