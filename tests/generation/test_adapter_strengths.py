"""Adapters whose strength changes over the steps: each step is what one strength makes of it, wherever weights are."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints import attach_lora, load_lora, merge_lora, save_model, scale_lora, write_adapter
from cogvideox.checkpoints.adapter import Adapter, Pair
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.generation import GenerateOptions
from cogvideox.generation.batch_file import Item
from cogvideox.generation.job import Job, prepare
from cogvideox.generation.recommended import read_adapter_flag
from cogvideox.memory import lower, offload
from cogvideox.strength import Strength
from support.models import golden_model, golden_text, write_model_folder
from support.quantised import fp8

ATTENTION = ("attn1.to_q", "attn1.to_out.0")
MODULATION = ("norm1.linear", "attn1.to_v")
OPTIONS = GenerateOptions(prompt="x", seed=42, steps=4, frames=9, attention="torch", guidance=3)


def adapter(model, leaves=ATTENTION, dora=False, seed=0):
    generator, pairs = torch.Generator().manual_seed(seed), {}
    for layer in (f"transformer_blocks.{block}.{leaf}" for block in (0, 1) for leaf in leaves):
        out, into = model.transformer.get_submodule(layer).weight.shape
        draw = [torch.randn(shape, generator=generator) * 0.3 for shape in ((2, into), (out, 2))]
        pairs[layer] = Pair(*draw, 2.0)
        if dora:
            magnitude = torch.rand(out, generator=generator) + 0.5
            pairs[layer] = replace(pairs[layer], magnitude=magnitude)
    return Adapter(pairs)


def frames(model, on_step=None, **changes):
    video = cogvideox.generate(model, OPTIONS.changed(**changes), on_step, **golden_text())
    return torch.from_numpy(video.frames.copy()), video.manifest


def with_adapter(strength, **kind):
    model = golden_model()
    attach_lora(model, adapter(model, **kind), "a", strength)
    return model


def by_hand(values, modulation="tables", **kind):
    """One strength after another, set from outside between the steps; None: the adapter is off the model."""
    model, made = golden_model(), adapter(golden_model(), **kind)

    def put(value):
        cogvideox.checkpoints.unload_lora(model)
        if value is not None:
            attach_lora(model, made, "a", value)

    def after(progress):
        if progress.stage == "denoise" and progress.done < len(values):
            put(values[progress.done])

    put(values[0])
    return frames(model, after, modulation=modulation)[0]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.8@0-0.5", [0.8, 0.8, None, None]),
        ("0.8@0.5-1", [None, None, 0.8, 0.8]),
        ("0.9@0-0.5,0.3@0.5-1", [0.9, 0.9, 0.3, 0.3]),
        ("-0.5@0.25-0.75", [None, -0.5, -0.5, None]),
    ],
)
def test_every_step_is_what_its_strength_makes_of_it(text, values, dora):
    changing = frames(with_adapter(text, dora=dora))[0]
    assert torch.equal(changing, by_hand(values, dora=dora))
    assert not torch.equal(changing, frames(golden_model())[0])
    assert not torch.equal(changing, frames(with_adapter(0.8, dora=dora))[0])


@pytest.mark.parametrize("leaves", [ATTENTION, MODULATION])
@pytest.mark.parametrize("dora", [False, True])
def test_a_strength_that_stays_is_the_plain_one(leaves, dora):
    model = with_adapter("0.7@0-0.5,0.7@0.5-1", leaves=leaves, dora=dora)
    plain = with_adapter(0.7, leaves=leaves, dora=dora)
    options = dict(modulation="tables" if leaves == ATTENTION else "layers")
    assert torch.equal(frames(model)[0], frames(plain, **options)[0])


def test_what_changes_at_every_step_stands_in_no_table():
    found, manifest = frames(with_adapter("1@0-0.5", leaves=MODULATION))
    assert manifest["run"]["engine"]["modulation"] == "layers"
    assert torch.equal(found, by_hand([1, 1, None, None], "layers", leaves=MODULATION))
    assert frames(with_adapter("1@0-0.5"))[1]["run"]["engine"]["modulation"] == "tables"


def test_a_strength_may_be_given_anew():
    model = with_adapter("1@0-0.5", dora=True)
    for strength in (0.4, "0.2@0-0.5,1@0.5-1", 1.0):
        scale_lora(model, strength)
        assert torch.equal(frames(model)[0], frames(with_adapter(strength, dora=True))[0])


def test_the_record_says_it():
    record = frames(with_adapter("1@0-0.5"))[1]["model"]["adapters"][0]
    assert record["scale"] == "1@0-0.5"
    assert frames(with_adapter(0.5))[1]["model"]["adapters"][0]["scale"] == 0.5


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("residence", ["phases", "disk", "stream"])
def test_wherever_weights_are_it_is_the_same(residence, dora, tmp_path):
    folder = save_model(golden_model(), tmp_path / "model")
    file = write_adapter(adapter(golden_model(), dora=dora), tmp_path / "a.safetensors")
    expected = frames(with_adapter("0.9@0-0.5,0.3@0.5-1", dora=dora))[0]
    model = cogvideox.load(folder, device="cpu", read_weights=residence == "stream")
    load_lora(model, file, "0.9@0-0.5,0.3@0.5-1")
    assert torch.equal(frames(offload(model, "cpu", residence))[0], expected)


@pytest.mark.parametrize("dora", [False, True])
def test_in_one_byte_a_weight_it_is_the_same(dora):
    pytest.importorskip("torchao")
    changing, plain = (with_adapter(each, dora=dora) for each in ("0.7@0-0.5,0.7@0.5-1", 0.7))
    assert torch.equal(frames(lower(changing, "int8"))[0], frames(lower(plain, "int8"))[0])


@pytest.mark.parametrize("dora", [False, True])
def test_over_quantised_files_it_is_the_same(dora, tmp_path):
    folder = save_model(golden_model(), tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors, metadata, _ = fp8(load_file(weights))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights, metadata)
    file = write_adapter(adapter(golden_model(), dora=dora), tmp_path / "a.safetensors")

    def made(strength, residence):
        model = cogvideox.load(folder, "float32", "cpu", read_weights=residence == "resident")
        assert (
            isinstance(model.transformer.transformer_blocks[0].attn1.to_q.weight, QuantisedTensor)
            or residence == "disk"
        )
        load_lora(model, file, strength)
        return frames(model if residence == "resident" else offload(model, "cpu", residence))[0]

    expected = made(0.7, "resident")
    for residence in ("resident", "disk"):
        assert torch.equal(made("0.7@0-0.5,0.7@0.5-1", residence), expected)
        assert not torch.equal(made("0.7@0-0.5", residence), expected)


def test_weights_take_no_strength_that_changes_and_compiled_blocks_neither():
    model = with_adapter("1@0-0.5")
    with pytest.raises(CheckpointError, match="its strength 1@0-0.5 changes over the steps"):
        merge_lora(model)
    with pytest.raises(ConfigError, match="compile: an adapter's strength changes"):
        frames(model, compile=True)


def test_a_job_keeps_it_and_plans_for_it(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    model = cogvideox.load(folder, device="cpu")
    file = write_adapter(adapter(model, MODULATION), tmp_path / "a.safetensors")
    path, strength = read_adapter_flag(f"{file}:0.8@0-0.6")
    assert (path, strength) == (str(file), Strength.parse("0.8@0-0.6"))
    job = Job(model=str(folder), adapters=((path, strength),), device="cpu")
    item = Item(line=1, settings={}, path=tmp_path / "v.mp4", key="k", job=job)
    assert Item.from_plain(json.loads(json.dumps(item.to_plain()))).job == job
    assert prepare(job, OPTIONS).plan.options.modulation == "layers"
    constant = Job(model=str(folder), adapters=((path, 0.8),), device="cpu")
    assert prepare(constant, OPTIONS).plan.options.modulation == "tables"
    with pytest.raises(ConfigError, match="leave compile out"):
        prepare(job, OPTIONS.changed(compile=True))


def test_the_command_line_takes_it(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    file = write_adapter(adapter(cogvideox.load(folder, device="cpu")), tmp_path / "a.safetensors")
    words = [
        "generate",
        "a circle",
        "--model",
        folder,
        "--steps",
        2,
        "--frames",
        9,
        "--device",
        "cpu",
        "--lora",
    ]

    def run(strength, out):
        done = CliRunner().invoke(app, [str(word) for word in (*words, f"{file}:{strength}", "--out", out)])
        assert done.exit_code == 0, done.output
        return json.loads(out.with_suffix(".json").read_text())

    record = run("0.8@0-0.5", tmp_path / "v.mp4")
    assert record["model"]["adapters"][0]["scale"] == "0.8@0-0.5"
    done = CliRunner().invoke(app, [str(word) for word in (*words, f"{file}:0.8@0.6-0.2")])
    assert done.exit_code == 2 and "0.6-0.2 is no part of the steps" in done.output
