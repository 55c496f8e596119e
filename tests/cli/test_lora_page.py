"""The commands of the page about LoRA run as they stand, with files made here and a hub on this machine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints.adapter import Adapter, Pair, write_adapter
from cogvideox.checkpoints.adapter_names import layers_of
from cogvideox.cli import app
from support.hub import COMMIT, serving_hub
from support.models import write_model_folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
LINES = re.search(r"## LoRA\n\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[
    1
].splitlines()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A model called 5b, two adapters, and one of them on a hub as owner/name:style.safetensors."""
    monkeypatch.chdir(tmp_path)
    model = cogvideox.load(write_model_folder(tmp_path / "5b"), device="cpu", text=False)
    for seed, name in enumerate(("style", "camera")):
        torch.manual_seed(seed)
        pairs = {}
        for layer in layers_of(model.transformer):
            if "attn1.to_" in layer:
                out, into = model.transformer.get_submodule(layer).weight.shape
                pairs[layer] = Pair(torch.randn(2, into), torch.randn(out, 2), 1.0)
        write_adapter(Adapter(pairs), tmp_path / f"{name}.safetensors")
    with serving_hub("owner/name", {"style.safetensors": Path("style.safetensors").read_bytes()}) as (
        address,
        _,
    ):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        for setting, value in (
            ("ENDPOINT", address),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{setting}", value)
        yield tmp_path


def test_the_commands_run(here):
    strengths = []
    for number, line in enumerate(LINES):
        words = shlex.split(line)[1:]
        out = f"{number}.mp4"
        if words[0] == "generate":
            words = [*words[:-1], out, "--steps", "2", "--frames", "9", "--device", "cpu"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}: {done.output}"
        if words[0] == "generate":
            adapters = json.loads(Path(out).with_suffix(".json").read_text())["model"]["adapters"]
            strengths.append([(each["name"], each["scale"], each.get("repository", "")) for each in adapters])
            if "owner/name" in line:
                assert adapters[0]["revision"] == COMMIT
    assert strengths == [
        [("style", 0.8, "")],
        [("style", 0.8, "owner/name")],
        [("style", "0.8@0-0.6", ""), ("camera", 1.0, "")],
    ]
    fused = json.loads((here / "fox-5b" / "cogvideox.json").read_text())["provenance"]["fused"]
    assert [(each["name"], each["scale"]) for each in fused] == [("style", 0.8), ("camera", 1.0)]
