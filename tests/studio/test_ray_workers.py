"""Workers of a studio as actors of a Ray cluster: the same videos, cancelled and replaced like processes here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
import cogvideox  # noqa: E402
from cogvideox import generate, read_video  # noqa: E402
from cogvideox.errors import ConfigError  # noqa: E402
from cogvideox.studio.ray_worker import NodeWorker, shares  # noqa: E402
from support.studio_client import SHORT, check_folder, studio  # noqa: E402

WORDS = "a red circle moves to the right"


class OfNodes:
    """As much of ray as ``shares`` asks: nodes of a cluster and their GPUs."""

    def __init__(self, nodes, gpus):
        self.cluster_resources = lambda: {"CPU": 8.0, **({"GPU": float(gpus)} if gpus else {})}
        self.nodes = lambda: [{"Alive": True}] * nodes


def test_a_cluster_has_room_for_one_worker_per_gpu_or_node():
    assert shares(OfNodes(3, 0), None) == (0, 3) and shares(OfNodes(3, 0), "cpu") == (0, 3)
    assert shares(OfNodes(2, 16), None) == (1, 16) and shares(OfNodes(2, 16), "cuda") == (1, 16)
    assert shares(OfNodes(2, 16), "cpu") == (0, 2)
    with pytest.raises(ConfigError, match="no node of the cluster has a GPU"):
        shares(OfNodes(2, 0), "cuda")
    with pytest.raises(ConfigError, match="device cuda:1: ray gives each worker a device of its own"):
        shares(OfNodes(2, 2), "cuda:1")


def test_a_node_says_what_is_wrong_with_it(tmp_path):
    node = NodeWorker()
    assert "is installed there, 0.0.0 here" in node.start("{}", "0.0.0", str(tmp_path / "log.txt"))
    wrong = node.start("{}", cogvideox.__version__, str(tmp_path / "none" / "log.txt"))
    assert "does not see this folder" in wrong and node.process is None


def worker_processes(out: Path) -> list[int]:
    """Processes of this machine that run the worker itself, below some actor."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            logs = os.readlink(folder / "fd" / "2")
        except OSError:
            continue
        if b"cogvideox.studio.worker" in words and logs.startswith(str(out)):
            found.append(int(folder.name))
    return found


@pytest.fixture
def client(cluster, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    with studio(tmp_path, "--engine", "ray", "--workers", "1", "--device", "cpu") as client:
        yield client.ready(180)


@pytest.mark.timeout(600)
def test_a_video_of_an_actor_is_that_of_generate_and_a_dead_one_is_made_again(client):
    name = client.create(WORDS, seed=3)
    video = client.until(name, "completed", seconds=120)
    assert video["cogvideox"]["result"]["seed"] == 3
    file = client.out / "videos" / name / "video.mp4"
    expected = generate(cogvideox.load("tiny"), WORDS, seed=3, **SHORT)
    again = expected.save(client.out.parent / "again.mp4")
    assert (read_video(file).frames == read_video(again).frames).all()
    name = client.create(WORDS, steps=150, frames=17)
    client.until(name, "running", seconds=120)
    [worker] = worker_processes(client.out)
    os.kill(worker, signal.SIGKILL)
    cancelled = client.create(WORDS, steps=150, frames=17)
    assert client.until(name, "completed", seconds=300)["cogvideox"]["state"] == "completed"
    client.until(cancelled, "running", seconds=120)
    client.ask("POST", f"/v1/videos/{cancelled}/cancel")
    client.until(cancelled, "cancelled", seconds=60)
    check_folder(client.out)
    [worker] = worker_processes(client.out)
    client.server.process.kill()
    for _ in range(100):
        if not client.lives(worker):
            break
        time.sleep(0.2)
    assert not client.lives(worker), "it ends with its server"


def test_without_a_cluster_the_server_says_how_to_start_one(tmp_path):
    pytest.importorskip("ray")
    environment = {**os.environ, "RAY_ADDRESS": "auto", "RAY_TMPDIR": str(tmp_path)}
    command = ["-m", "cogvideox", "serve", "--engine", "ray", "--out", str(tmp_path / "s"), "--port", "0"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 2 and "no cluster at auto; start one with" in done.stderr, done.stderr
