"""Engines: many jobs done by workers that load what they need once: processes on this machine, or actors of Ray.

A job is plain values; its result is a file, whole or not at all, and a few plain values about it. Longest first. A
worker that dies costs nobody's work but its own: its job is done again by another one, and given up by name when
several died of it. What a worker answers is JSON, read as values.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGXCPU, Signals
from typing import Any

from cogvideox import __version__
from cogvideox.errors import CogVideoXError, ConfigError, DependencyError, OutputError, describe, suggest
from cogvideox.files import parse_json
from cogvideox.files.atomic import write_text
from cogvideox.worker_pool import (
    CostedJob,
    Death,
    Job,
    JobOutcome,
    LongestFirst,
    Worker,
    WorkerPool,
    Workplace,
)

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker is. ``target``: 'module:Class'; made once in each worker from ``config``, plain values.

    Its method ``do(job)`` does a job and returns plain values about it; whatever it raises is the error of that job.
    ``shared``: the folder that jobs write to, which every worker must see. ``device``: as asked for by the user; a
    worker gets one GPU where there are some, unless this says cpu.
    """

    target: str
    config: Mapping[str, Any]
    shared: Path | None = None
    device: str | None = None
    deaths: int = 3  # a machine that is taken away is no fault of the job


@dataclass(frozen=True)
class JobEngine:
    """Where jobs are done: ``local`` in this process or, with ``workers``, in so many processes; ``ray`` on a cluster.

    Ray: one worker per GPU of the cluster, or one per node where it has none; ``workers`` says another number.
    """

    kind: str = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            hint = suggest(self.kind, ENGINES)
            raise ConfigError(f"engine {self.kind!r}: unknown{hint}; choose {' or '.join(ENGINES)}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers {self.workers}: must be 1 or more")

    @property
    def is_here(self) -> bool:
        """Whether the caller does the jobs itself, one after the other."""
        return self.kind == "local" and self.workers is None

    def run(self, jobs: Sequence[CostedJob], spec: WorkerSpec) -> Iterator[JobOutcome]:
        """Outcomes as they come, each job once. Raises DependencyError without ray, OutputError where a worker does
        not see the shared folder, ConfigError for a device that the cluster has not."""
        if not jobs:
            return
        with _seen_by_all(spec) as config:
            if self.kind == "ray":
                actors, workers = ray_actors(config, self.workers, spec.device)
                workplace: Workplace = actors
            else:
                workers = self.workers or 1
                threads = max(1, len(os.sched_getaffinity(0)) // workers)
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                workplace = Processes("cogvideox.engines", config, environment)
            with WorkerPool(workplace, min(workers, len(jobs)), spec.deaths) as pool:
                yield from pool.run(LongestFirst(jobs))


HERE = JobEngine()


@contextmanager
def _seen_by_all(spec: WorkerSpec) -> Iterator[dict[str, Any]]:
    """The config of a worker's host. A new file lies in the shared folder meanwhile: a worker that does not see it
    would write its results where nobody looks."""
    config = host_config(spec.target, spec.config)
    if spec.shared is None:
        yield config
        return
    probe = spec.shared.absolute() / f".seen-by-all-{uuid.uuid4().hex}"
    spec.shared.mkdir(parents=True, exist_ok=True)
    write_text(probe, "cogvideox looks whether every worker sees this folder; this file may be deleted\n")
    try:
        yield config | {"probe": str(probe)}
    finally:
        probe.unlink(missing_ok=True)


def host_config(target: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``WorkerHost`` starts with."""
    return {"target": target, "config": dict(config), "version": __version__, "folder": os.getcwd()}


class WorkerHost:
    """What a worker process or an actor of Ray is: it makes the target once, then does jobs. Speaks JSON."""

    def __init__(self) -> None:
        self.worker: Any = None

    def start(self, text: str) -> str:
        """Make the target; '{}' when it is ready, else what is wrong here."""
        try:
            config = parse_json(text, "the config of a worker")
            self._check(config)
            if Path(config["folder"]).is_dir():  # relative paths mean the same as where the run was started
                os.chdir(config["folder"])
            module, _, name = config["target"].partition(":")
            self.worker = getattr(importlib.import_module(module), name)(config["config"])
        except CogVideoXError as error:
            return json.dumps(stop_answer(error))
        except Exception as error:
            return json.dumps(stop_answer(CogVideoXError(f"{socket.gethostname()}: {describe(error)}")))
        return "{}"

    def do(self, text: str) -> str:
        """Do a job: its answer, or its error."""
        try:
            return json.dumps({"answer": self.worker.do(parse_json(text, "a job"))})
        except StopWorkError as stop:
            return json.dumps(stop_answer(stop.error))
        except Exception as error:  # of this job alone: it is named, and the others are done
            return json.dumps({"error": type(error).__name__, "detail": describe(error)})

    def _check(self, config: Mapping[str, Any]) -> None:
        host, probe = socket.gethostname(), config.get("probe")
        if config["version"] != __version__:
            raise DependencyError(
                f"{host}: cogvideox {__version__} is installed there, {config['version']} here; install one version"
            )
        if probe is not None and not Path(probe).is_file():
            raise OutputError(
                f"{Path(probe).parent}: {host} does not see this folder; it must lie on a file system that all nodes "
                "share, under the same path"
            )


class StopWorkError(Exception):
    """Raised by a worker for what is no job's fault: the run ends with ``error``."""

    def __init__(self, error: CogVideoXError) -> None:
        super().__init__(str(error))
        self.error = error


def stop_answer(error: CogVideoXError) -> dict[str, str]:
    """The answer of a worker that met what is no job's fault."""
    return {"stop": str(error), "kind": type(error).__name__}


# where workers live


class Processes:
    """Processes on this machine that read lines of JSON and answer in lines: ``python -m module``."""

    def __init__(
        self,
        module: str,
        config: Mapping[str, Any],
        environment: Mapping[str, str],
        seconds: float | None = None,
        cpu_seconds: int | None = None,
    ) -> None:
        self.module, self.config, self.seconds, self.cpu_seconds = module, config, seconds, cpu_seconds
        self.environment = {**environment, "PYTHONPATH": _import_path()}
        self.selector = selectors.DefaultSelector()

    def start(self) -> Worker:
        """A new process; it answers '{}' when it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )
        worker = Worker(_Pipe(process))
        self.selector.register(worker.link.stdout, selectors.EVENT_READ, worker)
        worker.link.send(self.config)
        return worker

    def submit(self, worker: Worker, job: Job) -> None:
        """Give a job to a worker that is ready."""
        worker.link.send(job)

    def answers(self, timeout: float | None) -> Iterator[tuple[Worker, dict[str, Any] | Death]]:
        """What came within ``timeout`` seconds; a worker that died is gone."""
        for key, _ in self.selector.select(timeout):
            worker, pipe = key.data, key.data.link
            data = os.read(pipe.stdout.fileno(), 1 << 16)
            if not data:
                yield worker, self._death(worker)
                continue
            *lines, pipe.partial_line = (pipe.partial_line + data).split(b"\n")
            for line in lines:
                yield worker, parse_json(line.decode("utf-8", "replace"), "the answer of a worker")

    def _death(self, worker: Worker) -> Death:
        try:
            ended = worker.link.process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            ended = 0
        self.stop(worker)
        if ended == -SIGXCPU and self.cpu_seconds is not None:
            return Death(f"a worker used more than {self.cpu_seconds} s of processor time", "too slow")
        how = Signals(-ended).name if ended < 0 else f"exit code {ended}"
        if not worker.ready:
            how += f"; run '{Path(sys.executable).name} -m {self.module}' to see why"
        return Death(how)

    def stop(self, worker: Worker) -> None:
        """End a worker, whatever it is at."""
        self.selector.unregister(worker.link.stdout)
        worker.link.end()

    def close(self) -> None:
        """Called when all workers have ended."""
        self.selector.close()


class _Pipe:
    """A worker process and the two pipes to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.partial_line = b""  # of an answer that is not whole yet

    def send(self, value: Mapping[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(value).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            return  # it has died; the end of its answers says so

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stdin.close()
        self.stdout.close()


class RayActors:
    """Actors of Ray, each with its share of a node; they end with this process."""

    seconds: float | None = None

    def __init__(self, config: Mapping[str, Any], cpus: float, gpus: float) -> None:
        self.ray, self.text = connect_to_ray(), json.dumps(config)
        self.actor = self.ray.remote(WorkerHost).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self.asked: dict[Any, Worker] = {}

    def start(self) -> Worker:
        """A new actor; while the cluster has no room for it, it waits."""
        worker = Worker(self.actor.remote())
        self.asked[worker.link.start.remote(self.text)] = worker
        return worker

    def submit(self, worker: Worker, job: Job) -> None:
        """Give a job to a worker that is ready."""
        self.asked[worker.link.do.remote(json.dumps(job))] = worker

    def answers(self, timeout: float | None) -> Iterator[tuple[Worker, dict[str, Any] | Death]]:
        """What came within ``timeout`` seconds; a worker that died is gone."""
        done, _ = self.ray.wait([*self.asked], num_returns=1, timeout=timeout)
        for reference in done:
            worker = self.asked.pop(reference)
            try:
                answer: dict[str, Any] | Death = parse_json(self.ray.get(reference), "the answer of a worker")
            except self.ray.exceptions.RayError as error:
                self.ray.kill(worker.link)
                answer = Death(f"{type(error).__name__}: {describe(error)[:300]}")
            yield worker, answer

    def stop(self, worker: Worker) -> None:
        """End a worker, whatever it is at."""
        self.ray.kill(worker.link)
        self.asked = {reference: each for reference, each in self.asked.items() if each is not worker}

    def close(self) -> None:
        """Called when all workers have ended; the connection to the cluster stays."""


def connect_to_ray() -> Any:
    """The module ``ray``, connected to the cluster of RAY_ADDRESS or of this machine, or to one that is started here.

    Raises DependencyError without ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise DependencyError("ray is not installed; install cogvideox[cluster]") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    return ray


def ray_actors(config: Mapping[str, Any], workers: int | None, device: str | None) -> tuple[RayActors, int]:
    """Actors, and how many: one per GPU, or one per node with its processors where the cluster has no GPU.

    Raises ConfigError for a device that the cluster has not, DependencyError without ray.
    """
    if device is not None and ":" in device:
        raise ConfigError(f"device {device}: ray gives each worker a device of its own; write cuda or cpu")
    ray = connect_to_ray()
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
    if device == "cuda" and not gpus:
        raise ConfigError("device cuda: no node of the cluster has a GPU; use another, or --device cpu")
    if gpus and device in (None, "cuda"):
        workers = workers or gpus
        return RayActors(config, 1, min(1.0, gpus / workers)), workers
    workers = workers or sum(node["Alive"] for node in ray.nodes())
    return RayActors(config, max(1, cpus // workers), 0), workers


def _import_path() -> str:
    """Where this package lies, first: a worker must run the code its parent runs."""
    here = str(Path(__file__).resolve().parents[1])
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([here, rest]) if rest else here


def main() -> None:
    """A worker process: the config in the first line, then jobs, until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints does not get between our lines
    host = WorkerHost()
    answers.write(host.start(sys.stdin.readline()) + "\n")
    for line in sys.stdin:
        answers.write(host.do(line) + "\n")


if __name__ == "__main__":
    from cogvideox.engines import (
        main as serve,
    )  # not the classes of __main__: workers raise those of the module

    serve()
