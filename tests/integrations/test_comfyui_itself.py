"""The same nodes in ComfyUI itself, headless: what it lists, the example workflows, cancelling.

    COMFYUI=ComfyUI COMFYUI_PYTHON=ComfyUI/venv/bin/python python -m pytest tests/integrations/test_comfyui_itself.py

``COMFYUI`` is its folder, ``COMFYUI_PYTHON`` a Python with its requirements and this package; without the first nothing
runs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import cogvideox
from cogvideox import generate, read_video
from cogvideox.video import video_info
from support.comfyui import PACK, PREFIX, SHORT, WORDS, ComfyUI, of_type, put_inputs, short, to_prompt
from support.models import write_model_folder

PLACE = os.environ.get("COMFYUI", "")
pytestmark = [
    pytest.mark.skipif(not PLACE, reason="set COMFYUI to the folder of a ComfyUI"),
    pytest.mark.timeout(600),
]


class Running:
    """A ComfyUI process with folders of its own, asked over HTTP."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root, self.address = root, f"http://127.0.0.1:{port}"
        for name in ("input", "output", "custom_nodes", "models"):
            (root / name).mkdir()
        (root / "custom_nodes" / "cogvideox").symlink_to(PACK)
        command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(Path(PLACE, "main.py")), "--cpu"]
        command += ["--port", str(port), "--base-directory", str(root), "--disable-api-nodes"]
        self.log = (root / "log.txt").open("w")
        self.process = subprocess.Popen(command, cwd=PLACE, stdout=self.log, stderr=subprocess.STDOUT)

    def ask(self, path: str, body: object = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"} if data else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return {"status": error.code, **json.loads(error.read() or b"{}")}

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(600):
            try:
                self.ask("/system_stats")
                return
            except OSError:
                assert self.process.poll() is None, (self.root / "log.txt").read_text()[-3000:]
                time.sleep(0.5)
        raise AssertionError("ComfyUI does not answer")

    def queue(self, prompt: dict, workflow: object = None) -> str:
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        answer = self.ask("/prompt", {"prompt": prompt, "extra_data": extra})
        assert "prompt_id" in answer, answer
        return answer["prompt_id"]

    def end(self, number: str) -> dict:
        """What became of a queued workflow."""
        for _ in range(1200):
            found = self.ask(f"/history/{number}")
            if number in found:
                return found[number]
            time.sleep(0.25)
        raise AssertionError("the workflow does not end")

    def run(self, prompt: dict, workflow: object = None) -> Path:
        """The file that the save node of a workflow wrote."""
        ended = self.end(self.queue(prompt, workflow))
        assert ended["status"]["status_str"] == "success", ended["status"]["messages"][-1]
        [shown] = [each for output in ended["outputs"].values() for each in output["images"]]
        return self.root / shown["type"] / shown["subfolder"] / shown["filename"]


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("comfyui"))
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(30)
        running.log.close()


def example(comfyui, name, inputs=True):
    """An example workflow in the form of the API, by what ComfyUI itself lists."""
    workflow = json.loads((PACK / "example_workflows" / name).read_text())
    return to_prompt(workflow, comfyui.ask("/object_info"))


def test_it_lists_the_nodes_as_the_stand_in_of_the_other_tests_does(comfyui, tmp_path, monkeypatch):
    host = ComfyUI(tmp_path / "ComfyUI")
    before = set(sys.modules)
    for name, module in host.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    host.load(PACK)
    listed = comfyui.ask("/object_info")
    ours = [name for name in host.nodes if name.startswith(PREFIX)]
    for name in ours:
        expected, found = host.schema(name).listed(), listed[name]
        assert {key: found[key] for key in expected if key != "input"} == {
            key: value for key, value in expected.items() if key != "input"
        }
        for kind, inputs in expected["input"].items():
            assert list(found["input"][kind]) == list(inputs)
            for each, (type_name, settings) in inputs.items():
                other_type, *other = found["input"][kind][each]
                assert other_type == type_name and settings.items() <= (other or [{}])[0].items(), (
                    name,
                    each,
                )
    for name in set(sys.modules) - before:
        if "integrations/comfyui" in name:
            del sys.modules[name]


def test_text_to_video_makes_what_generate_makes(comfyui):
    workflow = json.loads((PACK / "example_workflows" / "text_to_video.json").read_text())
    prompt = short(example(comfyui, "text_to_video.json"))
    of_type(prompt, "Save")["format"] = "mkv"
    path = comfyui.run(prompt, workflow)
    expected = generate(cogvideox.load("tiny"), WORDS, **SHORT)
    assert (read_video(path).frames == expected.frames).all()
    assert video_info(path).manifest["config"] == expected.manifest["config"]
    of_type(prompt, "Save")["format"] = "mp4"
    assert comfyui.run(prompt, workflow).suffix == ".mp4"


def test_image_to_video_makes_what_generate_makes(comfyui):
    picture, _, _ = put_inputs(comfyui.root, 64, 64)
    prompt = short(example(comfyui, "image_to_video.json"))
    of_type(prompt, "Save")["format"] = "mkv"
    expected = generate(cogvideox.load("tiny-i2v"), WORDS, image=picture, **SHORT)
    assert (read_video(comfyui.run(prompt)).frames == expected.frames).all()


def test_inpainting_runs_with_a_small_model_of_its_kind(comfyui, tmp_path):
    put_inputs(comfyui.root)
    folder = write_model_folder(tmp_path / "inpaint", "inpaint")
    path = comfyui.run(short(example(comfyui, "inpaint.json"), folder))
    video, record = read_video(path), video_info(path).manifest
    assert video.frames.shape == (9, 32, 48, 3) and record["run"]["way"] == "inpaint"


def test_an_error_is_told_in_the_packages_words(comfyui):
    prompt = short(example(comfyui, "text_to_video.json"), "no/such/folder")
    ended = comfyui.end(comfyui.queue(prompt))
    [error] = [what for name, what in ended["status"]["messages"] if name == "execution_error"]
    assert error["node_type"] == PREFIX + "LoadModel" and "no/such/folder" in error["exception_message"]


def test_cancelling_stops_a_run_between_steps_and_the_next_one_works(comfyui):
    prompt = short(example(comfyui, "text_to_video.json"), steps=1000)
    number = comfyui.queue(prompt)
    while not comfyui.ask("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(3)
    comfyui.ask("/interrupt", {})
    ended = comfyui.end(number)
    assert any(name == "execution_interrupted" for name, _ in ended["status"]["messages"])
    comfyui.run(short(prompt, steps=2))
