"""Who decodes films nobody trusts sees no secret, reaches no network, and takes no more than it may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogvideox.curation.confined import clean_environment
from cogvideox.curation.engines import confined_pool
from cogvideox.curation.recipe import find_recipe
from cogvideox.curation.vlm_steps import VlmLabels
from cogvideox.curation.worker import WorkerConfig

CANARIES = {
    "OPENAI_API_KEY": "canary-1",
    "HF_TOKEN": "canary-2",
    "AWS_SECRET_ACCESS_KEY": "canary-3",
    "CUDA_TOKEN": "canary-4",
    "DATABASE_URL": "postgres://canary-5@host",
    "SSH_AUTH_SOCK": "/canary-6",
}


@pytest.fixture
def child(tmp_path, monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    order = WorkerConfig(root=str(tmp_path), work=str(tmp_path / "work"), recipe=find_recipe("tiny"))
    workplace = confined_pool(order, 1).workplace
    worker = workplace.start()
    assert [answer for _, answer in workplace.answers(60)] == [{}]
    yield worker.link.process.pid
    workplace.stop(worker)
    workplace.close()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_worker_has_no_secrets_no_network_and_limits(child):
    environment = Path(f"/proc/{child}/environ").read_bytes()
    assert b"canary" not in environment and b"PATH=" in environment
    ours, theirs = (os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", child))
    if _may_unshare():
        cards = Path(f"/proc/{child}/net/dev").read_text().splitlines()[2:]
        assert ours != theirs and [line.split(":")[0].strip() for line in cards] == ["lo"]
    limits = {
        line[:25].strip(): line[25:].split()[0]
        for line in Path(f"/proc/{child}/limits").read_text().splitlines()
    }
    assert int(limits["Max open files"]) <= 512 and int(limits["Max file size"]) == 8192 << 20
    assert int(limits["Max core file size"]) == 0 and limits["Max data size"] != "unlimited"


def _may_unshare() -> bool:
    """Whether this system lets a process leave the network; asked of a process that ends at once."""
    import subprocess
    import sys

    ask = "from cogvideox.curation.confined import leave_network; raise SystemExit(not leave_network())"
    return subprocess.run([sys.executable, "-c", ask]).returncode == 0


def test_only_what_is_harmless_or_asked_for_is_handed_on():
    given = {**CANARIES, "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "ANYTHING": "else"}
    assert clean_environment(given) == {"PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0"}
    assert clean_environment(given, ["OPENAI_API_KEY"])["OPENAI_API_KEY"] == "canary-1"


def test_the_key_of_a_server_goes_to_who_asks_it_and_to_no_other():
    recipe = find_recipe("tiny")
    assert recipe.key_variables() == frozenset()
    asked = VlmLabels(ask="https://models.example/v1", ask_model="seer")
    assert (
        asked.key_variables() == {"OPENAI_API_KEY"}
        and VlmLabels(ask="models/seer").key_variables() == frozenset()
    )
