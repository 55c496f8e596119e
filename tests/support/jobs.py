"""A worker of the tests: it writes what it was told into a file, and dies or stumbles where the job says so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cogvideox.engines import StopWorkError
from cogvideox.errors import OutputError


class Scribe:
    """Writes ``<name>.txt`` into a folder and logs each job that it begins, with the process that does."""

    def __init__(self, config):
        self.folder, self.loaded = Path(config["folder"]), 0

    def do(self, job):
        log = self.folder / "log"
        with open(log, "a") as stream:
            stream.write(f"{job['name']} {os.getpid()}\n")
        attempt = log.read_text().count(f"{job['name']} ")
        if attempt <= job.get("deaths", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if "fails" in job:
            raise ValueError(job["fails"])
        if "stops" in job:
            raise StopWorkError(OutputError(job["stops"]))
        time.sleep(job.get("seconds", 0))
        (self.folder / f"{job['name']}.txt").write_text(job["name"])
        return {"length": len(job["name"])}


class NeverStarts:
    """A worker that dies before it can do anything."""

    def __init__(self, config):
        os.kill(os.getpid(), signal.SIGKILL)


class FailsAtBlue:
    """Makes lines of a batch, but for those whose prompt has something blue."""

    def __init__(self, config):
        from cogvideox.generation.batch import LineWorker

        self.worker = LineWorker(config)

    def do(self, job):
        if "blue" in job["settings"]["prompt"]:
            raise MemoryError
        return self.worker.do(job)
