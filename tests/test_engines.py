"""Jobs on several workers: longest first, each once, a dead worker's job again, one bad job alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogvideox import engines
from cogvideox.engines import JobEngine, WorkerSpec
from cogvideox.errors import CogVideoXError, ConfigError, DependencyError, OutputError
from cogvideox.worker_pool import CostedJob, JobQueue, LongestFirst

TESTS = str(Path(__file__).parent)


@pytest.fixture(params=["local", "ray"])
def engine(request, monkeypatch):
    """Two workers: processes, or actors of ray where it is installed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return JobEngine(request.param, 2)


def spec(folder, **more) -> WorkerSpec:
    return WorkerSpec(target="support.jobs:Scribe", config={"folder": str(folder)}, shared=folder, **more)


def named(*names: str, **more) -> list[CostedJob]:
    return [CostedJob({"name": name, **more}, len(names) - n) for n, name in enumerate(names)]


def test_every_job_is_done_once_and_one_bad_one_is_named_alone(engine, tmp_path):
    jobs = [*named("a", "bb", "ccc"), CostedJob({"name": "d", "fails": "odd"})]
    outcomes = {each.job["name"]: each for each in engine.run(jobs, spec(tmp_path))}
    assert {name: each.answer for name, each in outcomes.items() if not each.error} == {
        "a": {"length": 1}, "bb": {"length": 2}, "ccc": {"length": 3},
    }  # fmt: skip
    assert outcomes["d"].error == "ValueError" and "odd" in outcomes["d"].detail
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "bb.txt", "ccc.txt", "log"}


def test_the_job_of_a_dead_worker_is_done_again_by_another(engine, tmp_path):
    jobs = [*named("a", deaths=1), *named("b", "c")]
    outcomes = list(engine.run(jobs, spec(tmp_path)))
    assert sorted(each.job["name"] for each in outcomes) == ["a", "b", "c"]
    assert not any(each.error for each in outcomes)
    begun = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    workers = [worker for name, worker in begun if name == "a"]
    assert len(workers) == len(set(workers)) == 2


def test_a_job_of_which_workers_die_is_given_up_and_the_others_go_on(engine, tmp_path):
    jobs = [*named("a", deaths=9), *named("b", "c")]
    outcomes = {each.job["name"]: each for each in engine.run(jobs, spec(tmp_path, deaths=2))}
    assert outcomes["a"].error == "crashed" and "2 workers died of it" in outcomes["a"].detail
    assert not outcomes["b"].error and not outcomes["c"].error


def test_what_is_no_jobs_fault_ends_the_run_by_its_name(engine, tmp_path):
    with pytest.raises(OutputError, match="disk is full"):
        list(engine.run(named("a", stops="the disk is full"), spec(tmp_path)))
    with pytest.raises(CogVideoXError, match="NoSuchClass"):
        list(engine.run(named("a"), WorkerSpec(target="support.jobs:NoSuchClass", config={})))
    with pytest.raises(DependencyError, match="workers could not start"):
        list(engine.run(named("a"), WorkerSpec(target="support.jobs:NeverStarts", config={})))


def test_who_stops_listening_ends_the_workers(engine, tmp_path):
    outcomes = engine.run(named("a", "b", "c", "d", seconds=0.5), spec(tmp_path))
    next(outcomes)
    outcomes.close()
    assert not (tmp_path / "d.txt").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_worker_that_does_not_see_the_folder_says_so(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "write_text", lambda *given: None)  # as if it lay on another machine
    with pytest.raises(OutputError, match="does not see this folder; it must lie on a file system that all"):
        list(engine.run(named("a"), spec(tmp_path)))


def test_another_version_on_a_node_is_refused(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "__version__", "9.9")
    with pytest.raises(DependencyError, match="is installed there, 9.9 here"):
        list(engine.run(named("a"), spec(tmp_path)))


def test_the_longest_job_is_first_and_a_worker_keeps_its_weights():
    jobs = [("a", 1, "x"), ("b", 5, "x"), ("c", 3, "y"), ("d", 9, "y"), ("e", 2, "y")]
    queue = LongestFirst([CostedJob({"name": name}, cost, group) for name, cost, group in jobs])
    assert queue.has(5) and not queue.has(6)
    order, group = [], None
    while job := queue.take(group):
        order.append(job.job["name"])
        group = job.group
    assert order == ["d", "c", "e", "b", "a"]  # all of y, which has the most work left, then x
    queue.put_back(job := CostedJob({"name": "a"}, 1, "x"))
    assert queue.take("y") == job


def test_jobs_without_costs_come_in_their_order_and_are_not_read_ahead():
    seen = []
    queue = JobQueue(seen.append(n) or {"n": n} for n in range(9))
    assert queue.take(None).job == {"n": 0} and seen == [0]
    assert queue.has(2) and seen == [0, 1, 2]


def test_engines_that_there_are_not_are_refused():
    with pytest.raises(ConfigError, match="engine 'rai': unknown .did you mean 'ray'"):
        JobEngine("rai")
    with pytest.raises(ConfigError, match="workers 0: must be 1 or more"):
        JobEngine("local", 0)
    assert JobEngine().is_here and not JobEngine("local", 1).is_here and not JobEngine("ray").is_here


def test_ray_refuses_a_device_that_no_worker_has(cluster):
    with pytest.raises(ConfigError, match="device cuda:1: ray gives each worker a device of its own"):
        engines.ray_actors({}, None, "cuda:1")
    with pytest.raises(ConfigError, match="no node of the cluster has a GPU"):
        engines.ray_actors({}, None, "cuda")
