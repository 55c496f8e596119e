"""A worker of a studio on a node of a Ray cluster: ``python -m cogvideox.studio.ray_worker``.

The server talks to this process as to any worker of its own. The lines go on to an actor, which runs the worker itself
on its node, and what that says comes back the same way. It ends with this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogvideox import __version__
from cogvideox.engines import connect_to_ray, stop_answer
from cogvideox.errors import CogVideoXError, ConfigError, DependencyError, OutputError
from cogvideox.files import parse_json
from cogvideox.studio.worker_settings import WorkerSettings

WORKER = "cogvideox.studio.worker"
PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux
CALLS = 4  # of an actor at a time: one waits for answers while others bring lines


class NodeWorker:
    """The actor: a worker process on its node, lines in and lines out. ``start`` answers '' or what is wrong there."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(self, settings: str, version: str, log: str) -> str:
        """Start the worker with a line of settings, its log in the folder that all nodes see."""
        host, root = socket.gethostname(), Path(log).parent
        if version != __version__:
            return f"{host}: cogvideox {__version__} is installed there, {version} here; install one version"
        if not root.is_dir():
            return (
                f"{root}: {host} does not see this folder; it must lie on a file system that all nodes share, under "
                "the same path"
            )
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.send(settings)
        return ""

    def send(self, line: str) -> None:
        """One line to the worker; one that has died takes none."""
        assert self.process is not None and self.process.stdin is not None, "it was started"
        with suppress(OSError, ValueError):
            self.process.stdin.write(line.rstrip("\n") + "\n")
            self.process.stdin.flush()

    def answer(self) -> str:
        """The next line of the worker, as soon as there is one; '' when it has ended."""
        assert self.process is not None and self.process.stdout is not None, "it was started"
        return self.process.stdout.readline()


def shares(ray: Any, device: str | None) -> tuple[int, int]:
    """GPUs that an actor takes, and how many actors the cluster has room for: one per GPU, or per node without GPUs.

    Raises ConfigError for a device that the cluster has not.
    """
    if device is not None and ":" in device:
        raise ConfigError(f"device {device}: ray gives each worker a device of its own; write cuda or cpu")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise ConfigError("device cuda: no node of the cluster has a GPU; use another, or --device cpu")
    if gpus and device in (None, "cuda"):
        return 1, gpus
    return 0, sum(node["Alive"] for node in ray.nodes())


def _connected() -> Any:
    """The module ``ray`` connected to the cluster of RAY_ADDRESS, or to that of this machine. Raises our errors."""
    os.environ.setdefault("RAY_ADDRESS", "auto")  # never a cluster for each worker
    try:
        return connect_to_ray()
    except ConnectionError:
        where = os.environ["RAY_ADDRESS"]
        raise ConfigError(
            f"engine ray: no cluster at {where}; start one with 'ray start --head', or set RAY_ADDRESS to it"
        ) from None


def run(settings: WorkerSettings, line: str, log: str) -> None:
    """Bring lines to an actor and its answers back until one of both ends. Raises our errors before it starts."""
    ray = _connected()
    gpus, actors = shares(ray, settings.device)
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": CALLS}
    actor = ray.remote(NodeWorker).options(**options).remote()
    if wrong := ray.get(actor.start.remote(line, __version__, log)):
        raise (DependencyError if "install" in wrong else OutputError)(wrong)

    def bring() -> None:
        for line in sys.stdin:
            actor.send.remote(line)
        os._exit(0)

    threading.Thread(target=bring, daemon=True).start()
    while text := ray.get(actor.answer.remote()):
        print(json.dumps(_counted(parse_json(text, "a worker's line"), actors)), flush=True)


def _counted(message: Mapping[str, Any], actors: int) -> Mapping[str, Any]:
    """A message of a worker; that it is ready says how many the cluster has room for, not the devices of its node."""
    return {"ready": {**message["ready"], "devices": actors}} if "ready" in message else message


def main() -> None:
    """Be a worker whose work is done elsewhere: the same lines in and out as those of ``worker``."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C is for the server, which lets running videos end
        signal.signal(number, signal.SIG_IGN)
    settings = WorkerSettings.parse(parse_json(sys.stdin.readline(), "the settings of a worker"))
    settings = settings.changed(root=str(Path(settings.root).absolute()))
    log = str(Path(settings.root) / "logs" / f"ray-{os.getpid()}.txt")
    try:
        run(settings, json.dumps(settings.model_dump(mode="json")), log)
    except CogVideoXError as error:
        print(json.dumps(stop_answer(error)), flush=True)


if __name__ == "__main__":
    from cogvideox.studio.ray_worker import main as serve  # the classes of the module, not those of __main__

    serve()
