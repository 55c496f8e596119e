"""The container file: its steps, its entry and its health check do what they say, without Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import typer

from cogvideox.cli import app

ROOT = Path(__file__).resolve().parents[1]
ENTRY, INSTALL = ROOT / "docker" / "entry.sh", ROOT / "docker" / "install.sh"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), comments left out."""
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def understood(line: str) -> None:
    """The command line knows the verb and every flag of a line."""
    command, name, rest = typer.main.get_command(app), "cogvideox", shlex.split(line)[1:]
    while hasattr(command, "commands") and rest:
        name, *rest = rest
        assert name in command.commands, f"{name} is not a verb"
        command = command.commands[name]
    assert command.make_context(name, rest) is not None


def test_the_base_is_an_argument_and_nobody_is_root():
    assert of("ARG")[0].startswith("BASE=") and of("FROM")[0] == "${BASE} AS system"
    assert of("USER") == ["cogvideox"]
    after = [name for name, _ in instructions()]
    assert "RUN" not in after[after.index("USER") :], "nothing is installed as the user"
    assert json.loads(of("VOLUME")[0]) == ["/data", "/models"] and of("EXPOSE") == ["8750"]


def test_every_step_is_one_of_the_script_and_large_layers_come_first():
    steps = [shlex.split(each) for each in of("RUN")]
    assert [each[:2] for each in steps] == [["sh", "/app/install.sh"]] * 4
    assert [each[2] for each in steps] == ["system", "torch", "package", "user"]
    known = re.findall(r"^(\w+)\) #", INSTALL.read_text(), re.MULTILINE)
    assert known == [each[2] for each in steps]
    order = [(name, rest) for name, rest in instructions() if name in ("RUN", "COPY")]
    torch = order.index(("RUN", "sh /app/install.sh torch /app/venv"))
    assert torch < order.index(("COPY", "src /app/source/src")), (
        "a change of the source does not install torch again"
    )
    refused = subprocess.run(["sh", str(INSTALL), "other"], capture_output=True, text=True)
    assert refused.returncode == 2 and "not a step; choose" in refused.stderr


def test_what_is_copied_is_there_and_reaches_the_build():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [each[1:] for each in ignore if each.startswith("!")]
    assert "*" in ignore
    for each in of("COPY"):
        if each.startswith("--from"):
            continue
        for source in each.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(
                fnmatch.fnmatch(source, pattern) or source.startswith(pattern + "/") for pattern in kept
            )


@pytest.mark.parametrize("script", [ENTRY, INSTALL], ids=["entry", "install"])
def test_the_scripts_are_plain_shell(script):
    assert subprocess.run(["sh", "-n", str(script)], capture_output=True).returncode == 0
    assert script.read_text().startswith("#!/bin/sh\n") and "\nset -eu\n" in script.read_text()


def test_verbs_and_flags_of_the_entry_exist():
    text = re.sub(r"\$\{?[\w:-]+\}?", "8750", ENTRY.read_text().replace('"$@"', ""))
    lines = re.findall(r"cogvideox (?:studio|keys)[^>|;)\n]*", text)
    assert len(lines) == 3
    for line in lines:
        understood(line)
    understood("cogvideox studio --allow-host localhost --model 5b")


@pytest.fixture
def container(tmp_path):
    """Starts the entry as the container does, with the data folder and the commands of this environment."""
    started, log = [], (tmp_path / "log.txt").open("a")

    def start(*arguments: str) -> subprocess.Popen:
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "COGVIDEOX_DATA": str(tmp_path), "COGVIDEOX_PORT": "0"}
        env |= {"COGVIDEOX_HOSTS": "localhost video.example.org", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            ["sh", str(ENTRY), *arguments], env=env, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        started.append(process)
        return process

    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "cogvideox"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cogvideox "$@"\n')
    command.chmod(0o755)
    yield start
    for process in started:
        process.terminate()
        process.wait(40)
        process.stdout.close()
    log.close()


def ask(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_entry_starts_a_studio_for_those_who_have_the_key_and_makes_it_once(container, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("python_multipart")
    port = int(container("--model", "tiny").stdout.readline().strip().rstrip("/").rpartition(":")[2])
    file = tmp_path / "first-key.txt"
    key = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(key) > 32
    good = f"Bearer {key}"
    assert ask(port, "/v1/videos") == 401 and ask(port, "/v1/videos", Authorization=good) == 200
    for host, answer in (("localhost", 200), ("video.example.org", 200), ("other.example.org", 421)):
        assert ask(port, "/v1/videos", Authorization=good, Host=host) == answer, host
    log = (tmp_path / "log.txt").read_text()
    assert str(file) in log and key not in log
    check = of("HEALTHCHECK")[0]
    command = json.loads(check[check.index("[") :])
    healthy = subprocess.run(
        [sys.executable, *command[1:]], env={**os.environ, "COGVIDEOX_PORT": str(port)}, capture_output=True
    )
    assert command[0] == "python" and healthy.returncode == 0, healthy.stderr
    listed = container("keys", "list", "--out", "studio")
    assert listed.communicate(timeout=60)[0].split()[0] == "first" and listed.returncode == 0


def test_a_server_that_is_not_there_is_not_healthy():
    check = of("HEALTHCHECK")[0]
    command = json.loads(check[check.index("[") :])
    sick = subprocess.run(
        [sys.executable, *command[1:]], env={**os.environ, "COGVIDEOX_PORT": "9"}, capture_output=True
    )
    assert sick.returncode == 1


def test_a_second_start_makes_no_second_key(container, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("python_multipart")
    for _ in range(2):
        process = container("--model", "tiny")
        process.stdout.readline()
        process.terminate()
        process.wait(40)
    assert (tmp_path / "first-key.txt").exists()
    listed = container("keys", "list", "--out", "studio")
    assert listed.communicate(timeout=60)[0].count("first") == 1
