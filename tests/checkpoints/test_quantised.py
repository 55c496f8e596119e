"""Quantised weights: every format loads, computes what its numbers give, and what cannot be read is named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints.diffusers import load_transformer
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.inspect import inspect
from cogvideox.checkpoints.lora import add_lora, extract_lora, load_lora, merge_lora, save_lora
from cogvideox.checkpoints.specs import read_spec
from cogvideox.checkpoints.text import load_text
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.gguf_blocks import SIZES, decode_blocks
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.memory import lower, offload
from cogvideox.video import read_video
from support.models import TOKENS, golden_model, write_model_folder
from support.quantised import bnb_int8, fp8, gguf_in_safetensors, nf4, quanto, scaled_fp8, torchao

WEIGHTS = "diffusion_pytorch_model.safetensors"
FORMS = {
    "Q4_0": (lambda: gguf_in_safetensors("Q4_0"), 0.2),
    "Q8_0": (lambda: gguf_in_safetensors("Q8_0"), 0.02),
    "fp8 e4m3": (lambda: fp8, 0.1),
    "fp8 e4m3 with scales": (lambda: scaled_fp8, 0.1),
    "nf4": (lambda: nf4(double=False), 0.2),
    "nf4, scales in 8 bits": (lambda: nf4(double=True), 0.2),
    "bitsandbytes int8": (lambda: bnb_int8, 0.02),
    "quanto int8": (lambda: quanto, 0.02),
    "torchao int8": (lambda: torchao("Int8Tensor"), 0.02),
    "torchao fp8": (lambda: torchao("Float8Tensor"), 0.1),
    "torchao int4": (lambda: torchao("Int4Tensor"), 0.2),
    "torchao intx": (lambda: torchao("IntxUnpackedToInt8Tensor"), 0.2),
}  # fmt: skip
"""Name that inspect shows -> its writer, and how far a video's network may be from the full one, relative."""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A model whose matrices have rows of whole blocks."""
    work = tmp_path_factory.mktemp("full")
    model = golden_model(
        max_text_seq_length=TOKENS,
        num_attention_heads=2,
        attention_head_dim=32,
        time_embed_dim=64,
        text_embed_dim=64,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.transformer.parameters():
            weight.copy_(torch.randn_like(weight) * 0.05)
    folder = cogvideox.save(model, work / "model")
    record = json.loads((folder / "cogvideox.json").read_text())
    (folder / "cogvideox.json").write_text(json.dumps(record | {"files": {}}))  # of other weights soon
    return folder


@pytest.fixture(scope="module", params=FORMS)
def written(request, full, tmp_path_factory):
    """A folder whose transformer is in one format, the same with its numbers in full, and how far both may be."""
    name, (writer, most) = request.param, FORMS[request.param]
    if name.startswith("Q"):
        pytest.importorskip("gguf")
    work = tmp_path_factory.mktemp("low")
    weights = dict(load_transformer(full, "float32").state_dict())
    tensors, metadata, numbers = writer()(weights)
    folders = [shutil.copytree(full, work / each) for each in ("low", "dense")]
    for folder, held in zip(folders, (tensors, numbers), strict=True):
        save_file(
            {key: value.contiguous() for key, value in held.items()},
            folder / "transformer" / WEIGHTS,
            metadata,
        )
    (folders[1] / "transformer" / WEIGHTS).unlink()
    save_file(
        {key: value.contiguous() for key, value in numbers.items()}, folders[1] / "transformer" / WEIGHTS
    )
    return name.split(",")[0], *folders, most


def answer(network):
    config = network.config
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.in_channels, 3, 4, 6, generator=generator)
    text = torch.randn(1, TOKENS, config.text_embed_dim, generator=generator)
    with torch.no_grad():
        return network(x, text, torch.tensor([500]))


def test_a_format_is_kept_in_memory_and_computes_what_its_numbers_give(written, full):
    name, low, dense, most = written
    network, plain = load_transformer(low, "float32"), load_transformer(dense, "float32")
    weight = network.transformer_blocks[0].attn1.to_q.weight
    assert isinstance(weight, QuantisedTensor) and not weight.requires_grad
    assert sum(part.nbytes for part in weight.inner_tensors.values()) < 1.6 * weight.numel()
    torch.testing.assert_close(
        weight.dequantize(), plain.transformer_blocks[0].attn1.to_q.weight.detach(), rtol=1e-6, atol=1e-9
    )
    found, expected, exact = answer(network), answer(plain), answer(load_transformer(full, "float32"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert 0 < (found - exact).norm() / exact.norm() < most


def test_inspect_names_it_and_finds_nothing_wrong(written):
    name, low, _, _ = written
    report = inspect(low, check=True)
    assert report.ok, report.problems
    transformer = next(each for each in report.tensor_sets if each.name == "transformer")
    assert name in transformer.dtypes and name in report.to_text()
    assert transformer.bytes == sum(
        t.nbytes for t in cogvideox.checkpoints.tensors.read_file(low / "transformer" / WEIGHTS).values()
    )


def test_from_its_file_it_has_the_same_bits_under_every_policy(written):
    _, low, _, _ = written
    expected = answer(cogvideox.load(low, "float32", "cpu").transformer)
    for residence in ("phases", "disk"):
        model = offload(cogvideox.load(low, "float32", "cpu", read_weights=False), "cpu", residence)
        assert torch.equal(answer(model.transformer), expected)
        assert torch.equal(answer(model.transformer), expected)


def test_an_adapter_goes_on_top_and_cannot_be_merged(written, tmp_path):
    _, low, dense, _ = written
    networks = [load_transformer(folder, "float32") for folder in (low, dense)]
    add_lora(networks[1], rank=2)
    for number, pair in enumerate(extract_lora(networks[1]).pairs.values()):
        pair.b.copy_(torch.randn(pair.b.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    file = save_lora(networks[1], tmp_path / "lora")
    before = answer(networks[0])
    load_lora(networks[0], file, name="default")
    torch.testing.assert_close(answer(networks[0]), answer(networks[1]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, answer(networks[0]))
    with pytest.raises(CheckpointError, match="takes? no adapter in"):
        merge_lora(networks[0])


def test_it_is_written_as_plain_numbers_and_converted(written, tmp_path):
    _, low, dense, _ = written
    cogvideox.save(cogvideox.load(low, "float32", "cpu"), tmp_path / "saved")
    cogvideox.convert(low, tmp_path / "converted")
    saved = load_transformer(tmp_path / "saved").state_dict()
    plain = load_transformer(dense, "float32").state_dict()
    for name, weight in saved.items():
        assert type(weight) is torch.Tensor
        torch.testing.assert_close(weight, plain[name], rtol=1e-6, atol=1e-9)
    half = load_transformer(tmp_path / "converted").state_dict()
    kind = getattr(torch, read_spec(low).dtype)
    assert all(torch.equal(half[name], saved[name].to(kind)) for name in saved)
    trained = load_transformer(low, "float32", dense=True)
    assert all(
        weight.requires_grad and torch.equal(weight, saved[name])
        for name, weight in trained.named_parameters()
    )


def test_plan_counts_what_the_file_holds_and_other_storage_is_refused(written):
    _, low, dense, _ = written
    spec, plain = read_spec(low), read_spec(dense)
    held = spec.stored_bytes["transformer"]
    weights = (
        load_transformer(low, "float32").transformer_blocks[0].named_parameters(prefix="transformer_blocks.*")
    )
    real = {
        name: sum(part.nbytes for part in each.inner_tensors.values())
        for name, each in weights
        if isinstance(each, QuantisedTensor)
    }
    assert {name: held[name] for name in real} == real and not plain.stored_bytes
    with pytest.raises(ConfigError, match="quantised already"):
        lower(cogvideox.load(low, "float32", "cpu"), "int8")


GOLDEN = {
    "Q4_0": ([-3.5, 0, 3.5, -1, 2.5, -2], -37),
    "Q8_0": ([8.5, 12, 15.5, 19, 22.5, 26], -40),
    "Q4_K": ([31.75, 140.25, 0.75, 109.25, 217.75, 78.25], 24176),
    "Q5_K": ([279.75, 140.25, 248.75, 109.25, 465.75, 78.25], 50496),
    "Q6_K": ([636.5, 335, -502.5, -804, 1038.5, 201], -15552),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_blocks_have_the_golden_numbers(kind):
    block = (7 * torch.arange(SIZES[kind][1]) + 3).remainder(256).byte()
    at = 208 if kind == "Q6_K" else 0
    block[at : at + 2] = torch.tensor([0.5], dtype=torch.float16).view(torch.uint8)
    if kind in ("Q4_K", "Q5_K"):
        block[2:4] = torch.tensor([0.25], dtype=torch.float16).view(torch.uint8)
    first, total = GOLDEN[kind]
    (values,) = decode_blocks(kind, block)
    assert values[:6].tolist() == first and values.sum() == total


@pytest.mark.parametrize("kind", SIZES)
def test_every_kind_of_block_is_what_the_library_makes_of_it(kind):
    gguf = pytest.importorskip("gguf")
    size, nbytes = SIZES[kind]
    blocks = torch.randint(
        0, 256, (40, nbytes), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    for at in range(0, nbytes - 1, 2):  # any two bytes may be a scale: none is infinite
        blocks[:, at + 1] &= 0xBB
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind]))
    found = decode_blocks(kind, blocks)
    assert found.shape == (40, size)
    torch.testing.assert_close(found, expected.reshape(found.shape), rtol=1e-6, atol=1e-6)


def test_rows_made_one_after_another_are_the_whole(monkeypatch):
    for writer in (nf4(False), nf4(True), bnb_int8, torchao("Int4Tensor"), torchao("Float8Tensor")):
        tensors, metadata, _ = writer({"a.weight": torch.randn(24, 64)})
        import pathlib
        import tempfile

        from cogvideox.checkpoints.quantised import quantised
        from cogvideox.checkpoints.tensors import read_file

        with tempfile.TemporaryDirectory() as work:
            file = pathlib.Path(work) / "a.safetensors"
            save_file(tensors, file, metadata)
            weight = quantised(read_file(file))["a.weight"]
        whole = weight.dequantize()
        monkeypatch.setattr("cogvideox.files.quantised.PIECE", 320)
        assert torch.equal(weight.dequantize(), whole)
        monkeypatch.undo()


EIGHT, BYTES = torch.zeros(8, 64, dtype=torch.int8), torch.zeros(8, 18, dtype=torch.uint8)
STATE = torch.tensor(
    list(json.dumps({"blocksize": 64, "shape": [8, 64], "dtype": "float16"}).encode()), dtype=torch.uint8
)
NF4 = {"a.weight": torch.zeros(256, 1, dtype=torch.uint8), "a.weight.absmax": torch.ones(8),
       "a.weight.quant_map": torch.ones(16), "a.weight.quant_state.bitsandbytes__nf4": STATE}  # fmt: skip


def as_torchao(kind, *inner, **facts):
    told = {"_type": kind, "_data": facts, "_tensor_data_names": list(inner)}
    return {"a.weight": json.dumps(told), "tensor_names": '["a.weight"]'}


UNREADABLE = {
    "in tiles": (
        {"a._weight_qdata": EIGHT, "a._weight_scale_and_zero": torch.ones(1)},
        as_torchao("Int4TilePackedTo4dTensor", "qdata", "scale_and_zero"),
        "torchao 'Int4TilePackedTo4dTensor'",
    ),
    "scaled inputs": (
        {"a._weight_qdata": EIGHT, "a._weight_scale": torch.ones(8, 1), "a._weight_act_pre_scale": torch.ones(64)},
        as_torchao("Int8Tensor", "qdata", "scale", "act_pre_scale"),
        "torchao 'Int8Tensor'",
    ),
    "no scale": ({"a._weight_qdata": EIGHT}, as_torchao("Int8Tensor", "qdata", "scale"), "a._weight_scale are missing"),
    "layout": ({"a.weight": EIGHT, "a.SCB": torch.ones(8), "a.weight_format": torch.ones((), dtype=torch.uint8)}, {},
               "layout of its kernels"),
    "scales of another": ({"a.weight": EIGHT, "a.SCB": torch.ones(5)}, {}, r"scale \[5\]"),
    "quanto int4": ({"a.weight._data._data": BYTES, "a.weight._scale": torch.ones(8, 1)}, {}, "quanto in fewer"),
    "no table": ({key: value for key, value in NF4.items() if "map" not in key}, {}, "quant_map are missing"),
    "short": ({**NF4, "a.weight.absmax": torch.ones(7)}, {}, r"scale \[7\]"),
    "state": ({**NF4, "a.weight.quant_state.bitsandbytes__nf4": BYTES}, {}, "no shape and block size"),
    "rows": ({"a.Q4_0_qweight": torch.zeros(8, 17, dtype=torch.uint8)}, {}, "not rows of Q4_0 blocks of 18 bytes"),
    "floats": ({"a.Q8_0_qweight": torch.zeros(8, 34)}, {}, "not rows of Q8_0 blocks"),
    "one scale gone": (
        {"a.weight": EIGHT.to(torch.float8_e4m3fn), "b.weight": EIGHT.to(torch.float8_e4m3fn),
         "b.scale_weight": torch.ones(1)}, {}, "'a.weight': fp8 without a scale among others"),
    "int4 in wider numbers": (
        {"a._weight_qdata": EIGHT.int(), "a._weight_scale": torch.ones(2, 8), "a._weight_zero_point": torch.ones(2, 8)},
        as_torchao("Int4Tensor", "qdata", "scale", "zero_point", shape=[8, 128]),
        "torchao int4 of"),
    "QVGen": ({"a.w": torch.zeros(8, 8), "a.wquantizer.scale": torch.ones(8, 1)}, {}, "QVGen W4A4"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_naming_what_it_is(name, full, tmp_path):
    tensors, metadata, message = UNREADABLE[name]
    folder = shutil.copytree(full, tmp_path / "model")
    save_file(tensors, folder / "transformer" / WEIGHTS, metadata)
    with pytest.raises(CheckpointError, match=message):
        cogvideox.load(folder, device="cpu")
    report = inspect(folder)
    assert not report.ok and any(message.replace("\\", "") in problem for problem in report.problems)


def test_a_gguf_container_of_a_transformer(full, tmp_path):
    gguf = pytest.importorskip("gguf")
    network = load_transformer(full, "float32")
    writer = gguf.GGUFWriter(tmp_path / "cog.gguf", "cogvideox")
    numbers = {}
    for name, weight in network.state_dict().items():
        array = weight.numpy()
        kind = gguf.GGMLQuantizationType[
            ("Q8_0" if "to_q" in name else "Q4_0") if array.ndim == 2 and array.shape[1] % 32 == 0 else "F32"
        ]
        stored = gguf.quants.quantize(array, kind)
        writer.add_tensor("model.diffusion_model." + name, stored, raw_dtype=kind)
        numbers[name] = torch.from_numpy(gguf.quants.dequantize(stored, kind).copy()).reshape(weight.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = inspect(tmp_path / "cog.gguf")
    assert report.ok and {"Q8_0", "Q4_0", "float32"} <= set(report.tensor_sets[0].dtypes)
    folder = shutil.copytree(full, tmp_path / "model")
    (folder / "transformer" / WEIGHTS).unlink()
    shutil.copy(tmp_path / "cog.gguf", folder / "transformer")
    low = load_transformer(folder, "float32")
    network.load_state_dict(numbers)
    assert torch.equal(answer(low), answer(network))
    made = cogvideox.convert(tmp_path / "cog.gguf", tmp_path / "made", base=full)
    assert torch.equal(load_transformer(made).proj_out.weight, numbers["proj_out.weight"].to(torch.bfloat16))


def test_quantised_text_encoder_folder(tmp_path):
    """T5 in nf4, as the published folder has it."""
    folder = write_model_folder(tmp_path / "model")
    text = cogvideox.load(folder, "float32", "cpu").text.model
    tensors, _, numbers = nf4(False)({k: v for k, v in text.state_dict().items()})
    matrices = {
        k
        for k in numbers
        if k.endswith(".weight") and numbers[k].ndim == 2 and "Attention." in k and "relative" not in k
    }
    plain = {k: v.half() for k, v in text.state_dict().items() if k not in matrices}
    packed = {k: v for k, v in tensors.items() if any(k == m or k.startswith(m + ".") for m in matrices)}
    save_file(plain | packed, folder / "text_encoder" / "model.safetensors")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    model = cogvideox.load(folder, "float32", "cpu")
    with torch.no_grad():
        for name, weight in text.named_parameters():
            weight.copy_(numbers[name] if name in matrices else plain[name].float())
        ids = torch.tensor([[1, 2, 3]])
        assert torch.equal(model.text.model(ids), text(ids))
    as_stored = load_text(folder).model.state_dict()
    half = {name for name, weight in as_stored.items() if weight.dtype == torch.float16}
    assert set(as_stored) - half == {
        name for name in as_stored if name.endswith("wo.weight")
    }  # overflows in half
    assert set(read_spec(folder).stored_bytes["text_encoder"]) == {
        name.replace("block.0.", "block.*.") for name in matrices
    }


def test_the_shipped_model_quantised_makes_nearly_its_video_from_memory_and_from_disk(tmp_path):
    source = find_folder("tiny")
    folder = shutil.copytree(source, tmp_path / "low")
    tensors, metadata, _ = nf4(double=True)(dict(load_transformer(source, "float32").state_dict()))
    save_file(tensors, folder / "transformer" / WEIGHTS, metadata)
    frames = {}
    for name, model, memory in (
        ("full", source, "resident"),
        ("low", folder, "resident"),
        ("disk", folder, "disk"),
    ):
        words = [
            "generate",
            "a red circle moves to the right",
            "--model",
            model,
            "--memory",
            memory,
            "--steps",
            "3",
        ]
        words += ["--frames", "5", "--seed", "1", "--device", "cpu", "--out", tmp_path / f"{name}.mp4"]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.stderr
        frames[name] = read_video(tmp_path / f"{name}.mp4").frames.astype(float)
    assert (frames["low"] == frames["disk"]).all()
    assert 0 < abs(frames["low"] - frames["full"]).mean() < 8


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (("a.weight", "model.diffusion_model.a.weight"), (4, 64), "a second tensor for a.weight"),
        (("a.weight",), (0, 64), r"a.weight of \[0, 64\] in Q4_0 cannot be read"),
    ],
)
def test_a_container_with_a_name_twice_or_an_empty_tensor_is_refused(names, shape, message, tmp_path):
    gguf = pytest.importorskip("gguf")
    import numpy as np

    from cogvideox.checkpoints.gguf_file import read_gguf

    writer = gguf.GGUFWriter(tmp_path / "cog.gguf", "cogvideox")
    for name in names:
        blocks = np.zeros((shape[0], shape[1] // 32 * 18), np.uint8)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "cog.gguf")
