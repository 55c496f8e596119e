"""Weights that are given where others are wanted are refused with what they are and the flag that takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints import find_spec, load_controlnet
from cogvideox.checkpoints.adapter_reading import adapted_layers, read_adapter
from cogvideox.checkpoints.components import Components
from cogvideox.checkpoints.controlnet import read_controlnet_config
from cogvideox.checkpoints.misplaced import belongs
from cogvideox.checkpoints.tiny_vae import load_tiny_vae
from cogvideox.errors import CheckpointError
from support.loras import dotted
from support.models import write_controlnet, write_model_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> dict[str, Path]:
    """One of each kind of weights, as a folder and as a file, by the flag that takes it."""
    root = tmp_path_factory.mktemp("things")
    model = write_model_folder(root / "model")
    net = write_controlnet(root / "net")
    found = {"--model": model, "--transformer": model / "transformer", "--vae": model / "vae"}
    found |= {"--control-net": net, "--control-net file": net / WEIGHTS}
    for name in ("transformer", "vae"):
        save_file(load_file(model / name / WEIGHTS), root / f"{name}.safetensors")
        found[f"--{name} file"] = root / f"{name}.safetensors"
    save_file(dotted("transformer"), root / "style.safetensors")
    (root / "style").mkdir()
    save_file(dotted("transformer"), root / "style" / "style.safetensors")
    found |= {"--lora file": root / "style.safetensors", "--lora": root / "style"}
    tiny = {"encoder.0.weight": torch.zeros(64, 3, 3, 3), "decoder.1.weight": torch.zeros(256, 16, 3, 3)}
    save_file(tiny, root / "taecvx.safetensors")
    found["--tiny-vae file"] = root / "taecvx.safetensors"
    save_file({"shared.weight": torch.zeros(9, 3)}, root / "t5.safetensors")
    return found | {"--text-encoder": model / "text_encoder", "--text-encoder file": root / "t5.safetensors"}


READERS = {
    "--control-net": (read_controlnet_config, load_controlnet),
    "--lora": (lambda path: read_adapter(path, alpha=1.0), adapted_layers),
    "--tiny-vae": (load_tiny_vae,),
}


def test_what_it_is_is_found_by_names_alone(things, tmp_path):
    for flag, path in things.items():
        assert flag.removesuffix(" file") in belongs(path), path
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    for path in ("empty", "a.safetensors", "broken.safetensors", "gone"):
        assert belongs(tmp_path / path) == ""


@pytest.mark.parametrize("wanted", READERS)
def test_every_other_kind_is_refused_with_its_own_flag(things, wanted):
    for flag, path in things.items():
        if flag.removesuffix(" file") == wanted:
            continue
        for read in READERS[wanted]:
            with pytest.raises(CheckpointError) as error:
                read(path)
            assert f"{flag.removesuffix(' file')}" in str(error.value), (flag, str(error.value))
            assert len(str(error.value)) < 450


@pytest.mark.parametrize("wanted", ["transformer", "vae", "text_encoder"])
def test_files_of_other_networks_beside_a_model_are_told_in_one_clause(things, wanted):
    own = f"--{wanted.replace('_', '-')}"
    for flag, path in things.items():
        plain = flag.removesuffix(" file")
        if not flag.endswith("file") or plain == own:
            continue
        with pytest.raises(CheckpointError) as error:
            find_spec(things["--model"], components=Components.find(**{wanted: path}))
        assert plain in str(error.value) and "did you mean" not in str(error.value), str(error.value)
