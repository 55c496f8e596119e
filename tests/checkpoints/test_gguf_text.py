"""A T5 encoder from a GGUF file gives what its numbers give, and a file that is none is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cogvideox
from cogvideox.checkpoints.gguf_text import ours, read_gguf_text
from cogvideox.checkpoints.text import text_names
from cogvideox.cli import app
from cogvideox.errors import CheckpointError
from cogvideox.memory import offload
from cogvideox.text import T5Config, T5Encoder, TextEncoder
from support.models import TOKENS, golden_model, write_model_folder

gguf = pytest.importorskip("gguf")
CONFIG = T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=96, num_heads=2, num_layers=3)
NAMES = {
    "shared": "token_embd", "final_layer_norm": "enc.output_norm", "SelfAttention.q": "attn_q",
    "SelfAttention.k": "attn_k", "SelfAttention.v": "attn_v", "SelfAttention.o": "attn_o",
    "relative_attention_bias": "attn_rel_b", "layer.0.layer_norm": "attn_norm", "wi_0": "ffn_gate",
    "wi_1": "ffn_up", "wo": "ffn_down", "layer.1.layer_norm": "ffn_norm",
}  # fmt: skip
"""The converter's names, written here once more: the end of ours -> theirs."""


def theirs(name: str) -> str:
    ending = next(ending for ending in NAMES if name.removesuffix(".weight").endswith(ending))
    block = f"enc.blk.{name.split('.')[2]}." if ".block." in name else ""
    return f"{block}{NAMES[ending]}.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose text encoder has rows of whole blocks."""
    work = tmp_path_factory.mktemp("gguf")
    model = golden_model(max_text_seq_length=TOKENS, text_embed_dim=CONFIG.d_model)
    tokenizer = cogvideox.load(write_model_folder(work / "two"), device="cpu").text.tokenizer
    encoder = T5Encoder(CONFIG).initialise(torch.Generator().manual_seed(0))
    model.text = TextEncoder(encoder, tokenizer, TOKENS)
    return cogvideox.save(model, work / "model")


def write_gguf(path, encoder, kind="F32", arch="t5encoder", change=lambda name, array: (name, array)):
    """As llama.cpp does: matrices in blocks of ``kind``, vectors and the position biases in float32."""
    writer, kind = gguf.GGUFWriter(path, arch), gguf.GGMLQuantizationType[kind]
    for name, weight in encoder.state_dict().items():
        array = weight.float().numpy()
        plain = array.ndim == 1 or array.shape[-1] % 32
        name, array = change(theirs(name), array)
        quantised = array if plain else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.F32 if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def embedded(folder, file, **settings):
    model = cogvideox.load(folder, device="cpu", text_encoder=file, text_device="cpu", **settings)
    return offload(model, "cpu", "resident", "cpu").embed(["red", ""]).values


def test_every_name_has_one_place():
    assert {ours(theirs(name)) for name in text_names(CONFIG)} == set(text_names(CONFIG))
    assert len({theirs(name) for name in text_names(CONFIG)}) == len(text_names(CONFIG))


def test_full_precision_in_gguf_is_the_folder_bit_for_bit(folder, tmp_path):
    plain = cogvideox.load(folder, device="cpu")
    file = write_gguf(tmp_path / "t5.gguf", plain.text.model)
    assert torch.equal(embedded(folder, file), plain.embed(["red", ""]).values)
    whole = cogvideox.load(folder, device="cpu", text_encoder=file)  # made numbers of at once
    assert torch.equal(whole.embed(["red", ""]).values, plain.embed(["red", ""]).values)


@pytest.mark.parametrize(
    "kind, most", [("F16", 0.01), ("BF16", 0.05), ("Q8_0", 0.05), ("Q5_1", 0.3), ("Q4_0", 0.5)]
)
def test_packed_weights_give_what_their_numbers_give(folder, tmp_path, kind, most):
    plain = cogvideox.load(folder, device="cpu")
    file = write_gguf(tmp_path / "t5.gguf", plain.text.model, kind)
    found = embedded(folder, file)
    expected = plain.embed(["red", ""]).values
    assert 0 < (found - expected).norm() / expected.norm() < most
    with torch.no_grad():
        for weight in plain.text.model.parameters():
            if weight.ndim > 1 and weight.shape[-1] % 32 == 0:
                blocks = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
                numbers = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
                weight.copy_(torch.from_numpy(np.ascontiguousarray(numbers)))
    assert torch.equal(found, plain.embed(["red", ""]).values)


def test_the_folder_needs_no_weights_of_its_own_text_encoder(folder, tmp_path):
    import shutil

    mine = shutil.copytree(folder, tmp_path / "mine")
    file = write_gguf(tmp_path / "t5.gguf", cogvideox.load(folder, device="cpu").text.model, "Q8_0")
    (mine / "text_encoder" / "model.safetensors").unlink()
    words = ["generate", "red", "--model", mine, "--text-encoder", file, "--steps", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, [str(each) for each in (*words, "--out", tmp_path / "made.mp4")])
    assert done.exit_code == 0, done.stderr
    assert "t5.gguf" in (tmp_path / "made.json").read_text()


def test_inspect_finds_nothing_wrong_with_it_and_says_what_takes_it(tmp_path):
    file = write_gguf(tmp_path / "t5.gguf", T5Encoder(CONFIG).initialise(), "Q8_0")
    done = CliRunner().invoke(app, ["inspect", str(file), "--check"])
    assert done.exit_code == 0, done.stdout
    assert "Q8_0" in done.stdout and "generate --text-encoder" in done.stdout
    odd = write_gguf(tmp_path / "odd.gguf", T5Encoder(CONFIG).initialise(), arch="llama")
    done = CliRunner().invoke(app, ["inspect", str(odd)])
    assert done.exit_code == 1 and "'llama'" in done.stdout


def spoilt(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "text":
        path.write_text("not a GGUF file at all, only words")
    elif how == "header":
        path.write_bytes(path.read_bytes()[:40])
    return path


@pytest.mark.parametrize("how", ["cut", "text", "header", "gone"])
def test_a_damaged_file_is_refused(folder, tmp_path, how):
    file = write_gguf(tmp_path / "t5.gguf", T5Encoder(CONFIG))
    spoilt(file, how) if how != "gone" else file.unlink()
    with pytest.raises(CheckpointError, match=r"t5\.gguf: "):
        read_gguf_text(file)


def test_another_network_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="architecture 'llama'"):
        read_gguf_text(write_gguf(tmp_path / "llama.gguf", T5Encoder(CONFIG), arch="llama"))
    other = T5Encoder(CONFIG.changed(num_layers=2))
    with pytest.raises(CheckpointError, match="missing tensors"):
        embedded(folder, write_gguf(tmp_path / "short.gguf", other))

    def renamed(name, array):
        return name.replace("attn_q", "attn_x"), array

    with pytest.raises(CheckpointError, match="attn_x"):
        embedded(folder, write_gguf(tmp_path / "odd.gguf", T5Encoder(CONFIG), change=renamed))
