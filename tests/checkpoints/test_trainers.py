"""What trainers leave becomes a model folder, and is said to be what it is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints import convert, find_spec, inspect, load_model
from cogvideox.checkpoints.tensors import write_folder
from cogvideox.errors import CheckpointError
from cogvideox.training.checkpoint.state import save_state
from support.models import same, write_model_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def tuned(base):
    """The network of the base after some training."""
    torch.manual_seed(1)
    tensors = load_file(base / "transformer" / WEIGHTS)
    return {name: value + 0.01 * torch.randn_like(value) for name, value in tensors.items()}


def accelerate(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.bin")
    (folder / "random_states_0.pkl").write_bytes(b"\x80\x04.")


def shards(folder, tensors):
    write_folder(folder, "model", tensors, 20_000)
    (folder / "scheduler.bin").write_bytes(b"x")


def pickled(folder, tensors):
    torch.save(tensors, folder / "pytorch_model.bin")


def pickled_shards(folder, tensors):
    names = list(tensors)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def wrapped(folder, tensors):
    """As DDP and torch.compile name them, an average and a frozen text encoder beside."""
    more = {f"ema.{name}": value for name, value in tensors.items()}
    more |= {f"module._orig_mod.{name}": value for name, value in tensors.items()}
    torch.save(
        {"module": more | {"text_encoder.shared.weight": torch.ones(3, 2)}}, folder / "pytorch_model.bin"
    )


def deepspeed(folder, tensors):
    (folder / "latest").write_text("pytorch_model")
    (folder / "zero_to_fp32.py").write_text("")
    inner = folder / "pytorch_model"
    inner.mkdir()
    torch.save(
        {"module": tensors, "ds_version": "0.16", "global_steps": 5}, inner / "mp_rank_00_model_states.pt"
    )
    torch.save({"x": torch.ones(1)}, inner / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")


def single(folder, tensors):
    """As other programs keep one file, under the names of the original code."""
    save_file({f"{PREFIX}{name}": value for name, value in tensors.items()}, folder / "model.safetensors")


def own_state(folder, tensors):
    save_state(folder, 7, {"module": tensors, "optimizer": {"m": torch.zeros(3)}, "average": None})
    state = next(folder.glob("state-*"))
    for file in state.iterdir():
        file.rename(folder / file.name)
    state.rmdir()


LEFT = [accelerate, shards, pickled, pickled_shards, wrapped, deepspeed, single, own_state]


@pytest.mark.filterwarnings("ignore:.*beside the network")
@pytest.mark.parametrize("write", LEFT, ids=lambda write: write.__name__)
def test_what_a_trainer_leaves_becomes_a_model_folder_with_the_rest_of_its_base(write, base, tuned, tmp_path):
    place = tmp_path / "checkpoint-1000"
    place.mkdir()
    write(place, tuned)
    report = inspect(place)
    assert not report.ok and "--base" in report.to_text() and "no problems" not in report.to_text()
    for wanted in (load_model, find_spec):
        with pytest.raises(CheckpointError, match="not a model folder but .*cogvideox convert"):
            wanted(place)
    made = convert(place, tmp_path / "out", "diffusers", base=base)
    model, before = load_model(made), load_model(base)
    assert same(model.transformer.state_dict(), tuned)
    assert same(model.vae.state_dict(), before.vae.state_dict()) and model.text is not None
    here, there = model.spec, before.spec
    assert (here.height, here.frames, here.kind) == (there.height, there.frames, there.kind)
    assert inspect(made, check=True).ok


def test_single_files_are_converted_too_and_inspect_says_so(base, tuned, tmp_path):
    for name in ("tuned.safetensors", "tuned.pt", "tuned.bin"):
        file = tmp_path / name
        if name.endswith("safetensors"):
            save_file(tuned, file)
        else:
            torch.save({"state_dict": tuned}, file)
        assert "--base" in inspect(file).to_text() and "no problems" not in inspect(file).to_text()
        made = convert(file, tmp_path / f"{name}-out", "diffusers", base=base)
        assert same(load_model(made).transformer.state_dict(), tuned)


def test_tensors_beside_the_network_are_named(tuned, base, tmp_path):
    wrapped(tmp_path, tuned)
    with pytest.warns(UserWarning, match="beside the network are passed over.*ema"):
        convert(tmp_path, tmp_path / "out", "diffusers", base=base)


def test_a_file_of_two_networks_names_both(tuned, base, tmp_path):
    two = {f"{prefix}.{name}": value for prefix in ("student", "teacher") for name, value in tuned.items()}
    pickled(tmp_path, two)
    with pytest.raises(CheckpointError, match="several networks: student., teacher."):
        convert(tmp_path, tmp_path / "out", "diffusers", base=base)


def test_a_sat_file_with_what_it_was_trained_with_is_converted(base, tmp_path):
    sat = convert(base, tmp_path / "sat", "sat")
    file = sat / "transformer" / "1" / "mp_rank_00_model_states.pt"
    values = torch.load(file, weights_only=True)
    values["module"] |= {
        "first_stage_model.encoder.conv_in.conv.weight": torch.ones(2),
        "conditioner.embedders.0.transformer.shared.weight": torch.ones(2),
        "model_ema.decay": torch.ones(1),
    }
    torch.save(values | {"optimizer": {"state": {0: torch.ones(2)}}}, file)
    with pytest.warns(UserWarning, match="3 tensors beside the network"):
        made = convert(sat, tmp_path / "out", "diffusers")
    assert same(load_model(made).transformer.state_dict(), load_model(base).transformer.state_dict())
    with pytest.warns(UserWarning, match="beside the network"):
        text = inspect(sat).to_text()
    assert "cogvideox convert" in text and "no problems" not in text


def test_weights_in_parts_a_wrong_base_and_code_are_refused(base, tuned, tmp_path):
    parts, other, index = tmp_path / "parts", tmp_path / "other", tmp_path / "index"
    for place in (parts, other, index):
        place.mkdir()
    deepspeed(parts, {name: torch.empty(0) for name in tuned})
    pickled(other, {**tuned, "proj_out.bias": torch.ones(5)})
    pickled_shards(index, tuned)
    file = index / "pytorch_model.bin.index.json"
    file.write_text(file.read_text().replace("pytorch_model-00001", "../x"))
    for place, why in ((parts, "zero_to_fp32"), (other, "mis-shaped"), (index, "not the name")):
        with pytest.raises(CheckpointError, match=why):
            convert(place, tmp_path / "out", "diffusers", base=base)
    (other / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        convert(other, tmp_path / "out", "diffusers", base=base)
    assert not (tmp_path / "out").exists()


def test_a_run_of_ours_names_its_model_and_is_converted_from_it(base, tuned, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("name: x\n")
    save_state(run, 3, {"module": tuned, "average": {"count": 2, "values": dict(tuned)}})
    assert "at step 3" in inspect(run).kind and not inspect(run).ok
    made = convert(run, tmp_path / "a", "diffusers", base=base)
    assert same(load_model(made).transformer.state_dict(), tuned)
    shutil.copytree(base, run / "model")
    assert str(run / "model") in "".join(inspect(run).problems)
    assert same(
        load_model(convert(run, tmp_path / "b", "diffusers")).vae.state_dict(),
        load_model(base).vae.state_dict(),
    )
    outputs = tmp_path / "outputs"
    (outputs / "checkpoint-20").mkdir(parents=True)
    assert "checkpoint-20" in "".join(inspect(outputs).problems)


def test_a_network_without_its_base_says_what_is_missing(tmp_path, tuned):
    pickled(tmp_path, tuned)
    with pytest.raises(CheckpointError, match="base"):
        convert(tmp_path, tmp_path / "out", "diffusers")


def test_convert_takes_preset_names(base, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "shipped" / "tiny")
    monkeypatch.setattr("cogvideox.checkpoints.shipped.SHIPPED", (tmp_path / "shipped",))
    monkeypatch.chdir(tmp_path)
    assert load_model(convert("tiny", tmp_path / "out", "diffusers")).text is not None
