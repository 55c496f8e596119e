"""Weights that stay in their files give the bits of weights in memory, and take no more memory than is planned."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import cogvideox
from checkpoints.test_lora import some_adapter
from cogvideox.checkpoints import load_lora, merge_lora, save_model
from cogvideox.checkpoints.adapter import Adapter, write_adapter
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.stored import WeightFile, stored_of
from cogvideox.generation import GenerateOptions
from cogvideox.memory import offload
from cogvideox.memory.streaming import BlockReader, slots
from cogvideox.memory.weights import blocks_of
from cogvideox.text import T5Config, T5Encoder, TextEncoder
from support.models import TEXT_WIDTH, TOKENS, golden_model, write_model_folder

OPTIONS = GenerateOptions(prompt="red", steps=3, frames=9, seed=42, attention="torch")
PLACES = ("phases", "disk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of four blocks and four text layers, in shards: blocks lie in several files."""
    work = tmp_path_factory.mktemp("stored")
    model = golden_model(max_text_seq_length=TOKENS, num_layers=4)
    tokenizer = cogvideox.load(write_model_folder(work / "two"), device="cpu").text.tokenizer
    config = T5Config(vocab_size=64, d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_heads=2, num_layers=4)
    encoder = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    model.text = TextEncoder(encoder, tokenizer, TOKENS)
    return save_model(model, work / "model", shard_size=30_000)


def video(model, **changes):
    return torch.from_numpy(cogvideox.generate(model, OPTIONS.changed(**changes)).frames.copy())


def from_files(folder, residence="disk", **settings):
    model = cogvideox.load(folder, device="cpu", read_weights=False, **settings)
    return offload(model, "cpu", residence)


def in_memory(network) -> int:
    return sum(table[name].nbytes for table, name in slots(network) if not table[name].is_meta)


@pytest.mark.parametrize("residence", [*PLACES, "resident", "stream"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_read_from_files_equals_in_memory(folder, residence, dtype):
    """As stored, and cast at every read; twice: the second video begins where the first one ended."""
    expected = video(cogvideox.load(folder, dtype, "cpu"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no effect on a CPU")
        model = from_files(folder, residence, dtype=dtype)
    assert torch.equal(video(model), expected)
    assert torch.equal(video(model), expected)


@pytest.mark.parametrize("residence", PLACES)
def test_another_prompt_size_and_order_of_guidance_read_the_same_weights(folder, residence):
    whole, model = cogvideox.load(folder, device="cpu"), from_files(folder, residence)
    for changes in (
        {"prompt": "blue", "guidance_pair": "sequence"},
        {"height": 48, "width": 32, "modulation": "layers"},
        {"guidance": 1.0, "frames": 5},
    ):
        assert torch.equal(video(model, **changes), video(whole, **changes))


@pytest.mark.parametrize("residence", PLACES)
def test_a_run_that_was_interrupted_leaves_nothing_behind(folder, residence):
    model = from_files(folder, residence)

    def stop(step):
        if step.stage == "denoise" and step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cogvideox.generate(model, OPTIONS, stop)
    assert torch.equal(video(model), video(cogvideox.load(folder, device="cpu")))


@pytest.mark.parametrize("where", ["sent for", "waited for"])
def test_a_block_whose_reading_was_interrupted_is_read_again(folder, where, monkeypatch):
    """That of the first block, which the last one sends for; no other network enters before it is asked for."""
    model, whole = from_files(folder), cogvideox.load(folder, device="cpu")
    owner, name, number = (
        (ThreadPoolExecutor, "submit", 4) if where == "sent for" else (Future, "exception", 1)
    )
    plain, calls, read = getattr(owner, name), [], WeightFile.read
    monkeypatch.setattr(WeightFile, "read", lambda *args: (time.sleep(0.01), read(*args)))
    model.text.encode(["green"])

    def interrupted(*args):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.text.encode(["red"])
    for prompt in ("red", "blue"):
        assert torch.equal(model.text.encode([prompt]).values, whole.text.encode([prompt]).values)


def test_weights_outside_of_blocks_whose_reading_was_interrupted_are_read_again(folder, monkeypatch):
    model, whole = from_files(folder, "phases"), cogvideox.load(folder, device="cpu")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(WeightFile, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.text.encode(["red"])
    assert torch.equal(model.text.encode(["red"]).values, whole.text.encode(["red"]).values)


def test_the_shipped_model_is_read_as_float32_and_gives_the_same_video():
    options = OPTIONS.changed(prompt="a red circle moves to the right", steps=2)
    model = from_files("tiny")
    whole = cogvideox.load("tiny", device="cpu")
    assert (cogvideox.generate(model, options).frames == cogvideox.generate(whole, options).frames).all()
    place = stored_of(next(model.transformer.parameters()))
    assert place.dtype != place.wanted


def test_at_most_two_blocks_are_in_memory_and_nothing_of_other_stages(folder):
    model = from_files(folder)
    most, others = [], []
    for network in (model.transformer, model.text.model):
        blocks = blocks_of(network)
        for block in blocks:
            last = list(block.children())[-1][-1] if network is model.text.model else block
            last.register_forward_hook(
                lambda *_, blocks=blocks: most.append(sum(in_memory(each) > 0 for each in blocks))
            )
    for part in model.vae.encoder, model.vae.decoder, model.text.model:
        model.transformer.register_forward_hook(lambda *_, part=part: others.append(in_memory(part)))
    video(model)
    assert len(most) == 2 * 4 + 3 * 4 and set(most) == {1}  # the next one waits in a buffer that is nobody's
    assert set(others) == {0}


def test_the_next_block_is_read_by_a_thread_while_one_computes(folder, monkeypatch):
    read, readers = WeightFile.read, []

    def note(file, offset, memory):
        readers.append(threading.current_thread() is threading.main_thread())
        read(file, offset, memory)

    monkeypatch.setattr(WeightFile, "read", note)
    video(from_files(folder))
    assert readers.count(False) > 2 * readers.count(True)


def test_buffers_are_as_large_as_two_blocks_and_given_back(folder):
    model = from_files(folder)
    blocks = blocks_of(model.transformer)
    reader = BlockReader(blocks, torch.device("cpu"))
    reader.use(0)
    reader._join()
    size = sum(stored_of(home).held for _, home in reader._homes(1))
    held = [memory.nbytes for memory in reader.memory]
    assert len(held) == 2 and all(size <= each <= 1.2 * size + 64 * 40 for each in held)
    reader.leave()
    assert reader.memory == [None, None] and in_memory(model.transformer) == 0


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_put_on_top(folder, dora, tmp_path):
    """A DoRA reads the weights it scales, once, when it is put on."""
    generator = torch.Generator().manual_seed(1)
    pairs = some_adapter(blocks=(0, 1, 2, 3)).pairs
    if dora:
        from dataclasses import replace

        pairs = {
            name: replace(pair, magnitude=torch.rand(len(pair.b), generator=generator) + 0.5)
            for name, pair in pairs.items()
        }
    file = write_adapter(Adapter(pairs), tmp_path / "adapter.safetensors", "peft" if dora else "diffusers")
    whole = cogvideox.load(folder, device="cpu")
    stored = cogvideox.load(folder, device="cpu", read_weights=False)
    for model in (whole, stored):
        load_lora(model, file, 0.7)
    with pytest.raises(CheckpointError, match="in their files"):
        merge_lora(stored)
    plain = video(cogvideox.load(folder, device="cpu"))
    expected = video(whole)
    assert not torch.equal(expected, plain)
    assert torch.equal(video(offload(stored, "cpu", "disk")), expected)


def spoil_truncate(file):
    os.truncate(file, file.stat().st_size - 100)


def spoil_replace(file):
    other = file.with_suffix(".new")
    other.write_bytes(file.read_bytes())
    other.replace(file)


def spoil_write(file):
    with open(file, "r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"12345678")
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize("spoil", [spoil_truncate, spoil_replace, spoil_write, os.remove])
@pytest.mark.parametrize("residence", PLACES)
def test_a_file_that_changes_under_a_model_is_an_error(spoil, residence, tmp_path):
    model = from_files(write_model_folder(tmp_path / "model"), residence)
    video(model)
    spoil(tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model.safetensors: .*load the model again"):
        video(model)


def test_what_cannot_work_is_said(folder, tmp_path):
    stored = cogvideox.load(folder, device="cpu", read_weights=False)
    with pytest.raises(ConfigError, match=r"memory\.offload"):
        cogvideox.generate(stored, OPTIONS)
    with pytest.raises(ConfigError, match=r"memory\.offload"):
        stored.to("cpu")
    with pytest.raises(CheckpointError, match="in their files"):
        save_model(stored, tmp_path / "copy")
    with pytest.raises(ConfigError, match="read_weights=False"):
        offload(cogvideox.load(folder, device="cpu"), "cpu", "disk")


def test_the_command_reads_from_disk_and_gives_the_same_video(folder, tmp_path):
    from typer.testing import CliRunner

    from cogvideox.cli import app
    from cogvideox.video import read_video

    lines = tmp_path / "lines.txt"
    lines.write_text("red\nblue\n")
    made = {}
    for residence in ("resident", "phases", "disk"):
        out = tmp_path / residence
        words = ["generate", "--model", str(folder), "--batch", str(lines), "--out", str(out), "--steps", "2"]
        words += ["--seed", "3", "--memory", residence, "--device", "cpu"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        videos = sorted(out.glob("*.mp4"))
        made[residence] = [read_video(path).frames for path in videos]
        record = json.loads(videos[0].with_suffix(".json").read_text())
        assert record["run"]["memory"]["policy"]["residence"] == residence
    for residence in PLACES:
        assert len(made[residence]) == 2
        assert all((a == b).all() for a, b in zip(made[residence], made["resident"], strict=True))


class Recorder:
    """A stream of a card that writes down what is asked of it."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_event(self, event):
        self.log.append(f"{self.name} waits")

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self.log.append(f"{self.name} done")


def test_for_a_card_one_block_of_host_memory_is_locked_and_filled_again_only_when_it_was_copied(
    folder, monkeypatch
):
    log, locked = [], []
    model = cogvideox.load(folder, device="cpu", read_weights=False)
    blocks = blocks_of(model.transformer)
    compute, copies = Recorder("compute", log), Recorder("copies", log)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
    read = WeightFile.read
    monkeypatch.setattr(WeightFile, "read", lambda *given: (log.append("read"), read(*given))[1])
    reader = BlockReader(
        blocks, torch.device("cpu"), lambda memory: (locked.append(memory.nbytes), lambda: None)[1]
    )
    reader.side = copies
    for index in (0, 1, 2):
        reader.use(index)
    reader.leave()
    short = [what for what, before in zip(log, ["", *log], strict=False) if what != before]
    block = ["read", "copies done", "compute waits"]
    assert short[:5] == [*block, "read", "copies done"]  # the first, and the second while the first computes
    assert short.count("copies waits") == 2  # a buffer is filled when the device has computed with it
    assert all(
        after == "copies done" or after == "copies waits"
        for what, after in zip(short, short[1:], strict=False)
        if what == "read"
    )
    assert (
        len(locked) == 1
        and locked[0] < 1.3 * sum(stored_of(home).held for _, home in reader._homes(0)) + 64 * 40
    )


def test_two_threads_make_their_videos_one_after_the_other(folder):
    """Weights that come and go belong to one run at a time; the other thread waits for its turn."""
    model = from_files(folder)
    alone = [video(model, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: video(model, seed=seed), range(4)))
    assert all(map(torch.equal, alone, together))


def test_only_a_model_in_memory_is_copied(folder):
    model = cogvideox.load(folder, device="cpu")
    twin = deepcopy(model)
    twin.transformer.patch_embed.proj.weight.data.zero_()
    assert model.transformer.patch_embed.proj.weight.any() and twin.spec == model.spec
    for lazy in (
        cogvideox.load(folder, device="cpu", read_weights=False),
        *map(partial(from_files, folder), PLACES),
    ):
        with pytest.raises(ConfigError, match="load it once more"):
            deepcopy(lazy)
