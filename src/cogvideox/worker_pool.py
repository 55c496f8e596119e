"""A queue of jobs, and the pool of workers that share it: each job once, but that of a dead worker again."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cogvideox import errors
from cogvideox.errors import CogVideoXError, DependencyError

DEATHS = 2  # a job is given up when so many workers died of it
FAILED_STARTS = 3  # workers that died one after the other before they could do anything

Job = dict[str, Any]
"""Plain values that JSON can hold; how a worker reads them is between it and who made them."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended: without an ``error``, or given up for one (a short name) with its ``detail``.

    ``answer``: what the worker said about a job that is done.
    """

    job: Job
    error: str = ""
    detail: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CostedJob:
    """A job, what it will cost (in any unit), and the ``group`` of jobs that need the same weights."""

    job: Job
    cost: float = 0.0
    group: str = ""


class JobQueue:
    """Jobs in the order in which they come."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._coming, self._waiting = iter(jobs), deque[CostedJob]()

    def has(self, count: int) -> bool:
        """Whether at least so many jobs are waiting."""
        while len(self._waiting) < count and (job := next(self._coming, None)) is not None:
            self._waiting.append(CostedJob(job))
        return len(self._waiting) >= count

    def take(self, group: str | None) -> CostedJob | None:
        """The next job for a worker that has the weights of ``group``; None when nothing is waiting."""
        return self._waiting.popleft() if self.has(1) else None

    def put_back(self, job: CostedJob) -> None:
        """A job whose worker died: it is the next one."""
        self._waiting.appendleft(job)


class LongestFirst(JobQueue):
    """The longest job first, so that the last ones are short; a worker keeps its weights as long as they are needed."""

    def __init__(self, jobs: Iterable[CostedJob]) -> None:
        self._groups: dict[str, deque[CostedJob]] = {}
        for job in sorted(jobs, key=lambda each: -each.cost):
            self._groups.setdefault(job.group, deque()).append(job)

    def has(self, count: int) -> bool:
        """Whether at least so many jobs are waiting."""
        return sum(map(len, self._groups.values())) >= count

    def take(self, group: str | None) -> CostedJob | None:
        """The longest job of ``group``; of the group with the most work left where that has none."""
        if not self._groups.get(group or ""):
            left = {name: (sum(job.cost for job in jobs), len(jobs)) for name, jobs in self._groups.items()}
            group = max(left, key=lambda name: left[name], default=None)
        jobs = self._groups.get(group or "")
        return jobs.popleft() if jobs else None

    def put_back(self, job: CostedJob) -> None:
        """A job whose worker died: it is the next one of its group."""
        self._groups[job.group].appendleft(job)


@dataclass(eq=False)
class Worker:
    """A worker and the job it is at. ``link``: how it is reached."""

    link: Any
    job: CostedJob | None = None
    group: str | None = None
    ready: bool = False
    deadline: float = float("inf")


@dataclass(frozen=True)
class Death:
    """How a worker died; ``error`` where its job is given up for that at once."""

    how: str
    error: str = ""


class Workplace(Protocol):
    """Where workers live. ``seconds``: what one may need for a job; None: any time."""

    seconds: float | None

    def start(self) -> Worker:
        """A new worker; it answers '{}' when it is ready."""

    def submit(self, worker: Worker, job: Job) -> None:
        """Give a job to a worker that is ready."""

    def answers(self, timeout: float | None) -> Iterator[tuple[Worker, dict[str, Any] | Death]]:
        """What came within ``timeout`` seconds; a worker that died is gone."""

    def stop(self, worker: Worker) -> None:
        """End a worker, whatever it is at."""

    def close(self) -> None:
        """Called when all workers have ended."""


class WorkerPool:
    """Workers that share one queue of jobs; they are started when there is something to do."""

    def __init__(self, workplace: Workplace, workers: int, deaths: int = DEATHS) -> None:
        self.workplace, self.most, self.deaths = workplace, workers, deaths
        self.workers: list[Worker] = []
        self.died_of: dict[str, int] = {}
        self.failed_starts = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *what: object) -> None:
        for worker in self.workers:
            self.workplace.stop(worker)
        self.workplace.close()

    def run(self, jobs: JobQueue) -> Iterator[JobOutcome]:
        """Outcomes as they come. Raises what a worker met that is no job's fault, DependencyError where none starts."""
        while True:
            self._hand_out(jobs)
            if not jobs.has(1) and all(worker.job is None for worker in self.workers):
                return
            wait = min(worker.deadline for worker in self.workers) - time.monotonic()
            for worker, answer in self.workplace.answers(max(0.0, wait) if wait < 1e9 else None):
                yield from self._handle(worker, answer, jobs)
            for worker in [each for each in self.workers if time.monotonic() >= each.deadline]:
                self.workplace.stop(worker)
                self.workers.remove(worker)
                how = f"a worker needed more than {self.workplace.seconds:g} s"
                if worker.job is None:
                    self._start_failed(worker, Death(how))
                else:
                    yield JobOutcome(worker.job.job, "too slow", f"{how} for it")

    def _hand_out(self, jobs: JobQueue) -> None:
        for worker in self.workers:
            if worker.ready and worker.job is None and (job := jobs.take(worker.group)) is not None:
                worker.job, worker.group, worker.deadline = job, job.group, self._deadline()
                self.workplace.submit(worker, job.job)
        starting = sum(not worker.ready for worker in self.workers)
        while len(self.workers) < self.most and jobs.has(starting + 1):
            self.workers.append(self.workplace.start())
            self.workers[-1].deadline = self._deadline()
            starting += 1

    def _deadline(self) -> float:
        return time.monotonic() + (self.workplace.seconds or float("inf"))

    def _handle(self, worker: Worker, answer: dict[str, Any] | Death, jobs: JobQueue) -> Iterator[JobOutcome]:
        job, worker.job, worker.deadline = worker.job, None, float("inf")
        if isinstance(answer, Death):
            self.workers.remove(worker)
            if job is None:
                self._start_failed(worker, answer)
            elif (outcome := self._died(job, answer)) is not None:
                yield outcome
            else:
                jobs.put_back(job)
        elif answer.get("stop"):
            raise as_raised(answer["kind"], answer["stop"])
        elif not worker.ready:
            worker.ready, self.failed_starts = True, 0
        else:
            assert job is not None, "a worker that is ready answers to jobs only"
            detail = answer.get("detail", "")
            yield JobOutcome(job.job, answer.get("error", ""), detail, answer.get("answer") or {})

    def _start_failed(self, worker: Worker, death: Death) -> None:
        """Raises DependencyError when workers never come to life."""
        self.failed_starts += not worker.ready
        if self.failed_starts >= FAILED_STARTS:
            raise DependencyError(f"{self.failed_starts} workers could not start ({death.how})")

    def _died(self, job: CostedJob, death: Death) -> JobOutcome | None:
        """The outcome of a job that is given up; None for one that is tried again."""
        if death.error:
            return JobOutcome(job.job, death.error, death.how)
        key = json.dumps(job.job, sort_keys=True)
        self.died_of[key] = self.died_of.get(key, 0) + 1
        if self.died_of[key] < self.deaths:
            return None
        return JobOutcome(job.job, "crashed", f"{self.deaths} workers died of it ({death.how})")


def as_raised(kind: str, text: str) -> CogVideoXError:
    """The error that a worker met, in this process."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, CogVideoXError):
        return found(text)
    return CogVideoXError(text)
