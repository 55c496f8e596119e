"""Engines: who does the jobs. A pool of processes here, or Ray on many machines; the files they make are the same.

A video may crash its worker, or keep it busy for ever. Then that video is given up by name, the worker is replaced, and
the others never notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from cogvideox.curation.confined import clean_environment
from cogvideox.curation.worker import WorkerConfig
from cogvideox.engines import Processes, RayActors, StopWorkError, connect_to_ray, host_config
from cogvideox.errors import CogVideoXError
from cogvideox.worker_pool import Job, JobOutcome, JobQueue, WorkerPool

GPU_SHARE = (
    0.25  # of a GPU for an actor of Ray whose steps need one: Ray hides GPUs from actors that ask for none
)


class CurationEngine(Protocol):
    """Does jobs in any order; each exactly once, unless its worker dies."""

    def run(self, jobs: Iterable[Job], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Outcomes as they come. Raises what a worker met that is no video's fault: OutputError for a full disk."""


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0)) or 1

    def run(self, jobs: Iterable[Job], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Run the jobs in worker processes here; outcomes as they come. Raises as CurationEngine says."""
        with confined_pool(config, self.workers) as pool:
            yield from pool.run(JobQueue(jobs))


class RayEngine:
    """Actors of Ray on a cluster. The folders must be seen under the same paths on every node."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    def run(self, jobs: Iterable[Job], config: WorkerConfig) -> Iterator[JobOutcome]:
        """Run the jobs in actors; outcomes as they come. Raises DependencyError without ray."""
        queue = JobQueue(jobs)
        cluster = connect_to_ray().cluster_resources()
        workers = self.workers or max(1, int(cluster.get("CPU", 1)))
        host = host_config(f"{__name__}:ConfinedWorker", config.model_dump(mode="json"))
        actors = RayActors(host, 1, GPU_SHARE if config.recipe.on_gpu() else 0)
        with WorkerPool(actors, workers) as pool:
            for outcome in pool.run(queue):
                given_up = outcome.answer.get("error") or outcome.error
                yield JobOutcome(outcome.job, given_up, outcome.answer.get("detail") or outcome.detail)


class ConfinedWorker:
    """What an actor of Ray holds: one worker process, so that a video that crashes does not take the actor with it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.pool = confined_pool(WorkerConfig.parse(config), 1)

    def do(self, job: Job) -> dict[str, str]:
        """The error of a job that was given up, with its detail, or two empty texts."""
        try:
            (outcome,) = self.pool.run(JobQueue([job]))
        except CogVideoXError as error:
            raise StopWorkError(error) from None
        return {"error": outcome.error, "detail": outcome.detail}


def confined_pool(config: WorkerConfig, workers: int) -> WorkerPool:
    """Processes that decode untrusted videos: see ``cogvideox.curation.worker``."""
    recipe = config.recipe
    environment = clean_environment(os.environ, recipe.key_variables()) | {"OMP_NUM_THREADS": "1"}
    limits = recipe.limits
    processes = Processes(
        "cogvideox.curation.worker",
        config.model_dump(mode="json"),
        environment,
        limits.wall_seconds,
        limits.cpu_seconds,
    )
    return WorkerPool(processes, workers)
