"""Weights that visit the device give the bits of weights that live there."""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import cogvideox
from cogvideox.generation import GenerateOptions
from cogvideox.memory.offload import OffloadedModule, install, offload, stages_of
from cogvideox.memory.streaming import BlockStreamer, page_lock, slots
from cogvideox.memory.weights import blocks_of
from support.models import golden_model, golden_text, same

CPU = torch.device("cpu")
OPTIONS = GenerateOptions(prompt="x", steps=2, frames=9, seed=42)


def video(model):
    return torch.from_numpy(cogvideox.generate(model, OPTIONS, **golden_text()).frames.copy())


@pytest.fixture(scope="module")
def resident():
    return video(golden_model(num_layers=4))


@pytest.mark.parametrize("stream", [False, True])
def test_offloaded_equals_resident(resident, stream):
    model = install(golden_model(num_layers=4), CPU, stream)
    assert torch.equal(video(model), resident)
    assert torch.equal(video(model), resident)  # the slots of a second run begin where the first one ended


def test_one_stage_at_a_time_is_on_the_device():
    """Watched through copies: what computes is never the tensor that lives at home."""
    model = golden_model()
    homes = {id(tensor) for part in stages_of(model) for tensor in part.parameters()}
    install(model, CPU, stream=False)
    seen = []

    def away(part):
        return not {id(tensor) for tensor in part.parameters()} & homes

    model.vae.decoder.register_forward_hook(lambda *_: seen.append([away(part) for part in stages_of(model)]))
    model.transformer.register_forward_hook(lambda *_: seen.append([away(part) for part in stages_of(model)]))
    video(model)
    assert seen[0] == [True, False, False] and seen[-1] == [False, False, True]


def test_two_blocks_are_on_the_device_when_they_are_streamed():
    model = golden_model(num_layers=4)
    blocks = blocks_of(model.transformer)
    homes = [id(tensor) for block in blocks for tensor in block.parameters()]
    install(model, CPU, stream=True)
    most = []
    for block in blocks:
        block.register_forward_hook(
            lambda *_: most.append(sum(id(t) not in homes for b in blocks for t in b.parameters()))
        )
    video(model)
    assert max(most) <= sum(1 for _ in blocks[0].parameters())  # each block gives its copies back
    assert [id(tensor) for block in blocks for tensor in block.parameters()] == homes


def test_weights_come_home_unchanged():
    model = golden_model()
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    install(model, CPU, stream=True)
    video(model)
    after = model.transformer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_blocks_are_the_longest_row_of_equals():
    model = golden_model(num_layers=4)
    assert blocks_of(model.transformer) == list(model.transformer.transformer_blocks)


def test_moving_on_a_cpu_says_that_it_has_no_effect():
    model = golden_model()
    with pytest.warns(UserWarning, match="no effect on a CPU"):
        offload(model, "cpu", "phases")
    assert not model.transformer._forward_pre_hooks


def test_the_blocks_text_encoders_have_are_streamed_too():
    model = cogvideox.load("tiny", device="cpu")
    before = model.embed(["a red circle"]).values
    assert len(list(slots(model.text.model))) > 10
    install(model, CPU, stream=True)
    assert torch.equal(model.embed(["a red circle"]).values, before)


class FakeStream:
    """Writes down what is asked of it."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for an event")

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")


def test_buffers_are_freed_when_the_device_has_computed_with_them(monkeypatch):
    log = []
    compute, copies = FakeStream("compute", log), FakeStream("copies", log)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
    streamer = BlockStreamer([torch.nn.Linear(2, 2) for _ in range(3)], CPU)
    streamer.side, empty = copies, streamer._empty
    monkeypatch.setattr(streamer, "_empty", lambda: (log.append("free"), empty()))
    streamer.use(0)
    log.clear()
    streamer.leave()
    assert log == ["copies waits for compute", "host waits for copies", "free"]


class FakeRegistrar:
    """Counts the bytes that are page-locked now, and at most."""

    def __init__(self):
        self.locked = self.most = 0

    def __call__(self, memory):
        self.locked += memory.nbytes
        self.most = max(self.most, self.locked)
        return lambda: setattr(self, "locked", self.locked - memory.nbytes)


def test_streaming_pins_the_bytes_of_its_blocks_and_lets_them_go():
    registrar = FakeRegistrar()
    blocks = [torch.nn.Sequential(torch.nn.Linear(130, 90), torch.nn.LayerNorm(90)) for _ in range(3)]
    before = [{name: value.clone() for name, value in block.state_dict().items()} for block in blocks]
    weights = sum(tensor.nbytes for block in blocks for tensor in block.parameters())
    streamer = BlockStreamer(blocks, CPU, registrar).install()
    assert weights <= registrar.locked <= 1.05 * weights
    assert all(same(block.state_dict(), kept) for block, kept in zip(blocks, before, strict=True))
    assert len({tensor.untyped_storage().data_ptr() for tensor in blocks[0].parameters()}) == 1
    for block in blocks:
        block(torch.randn(1, 130))
    streamer.leave()
    assert registrar.locked == registrar.most
    del streamer, blocks, block
    gc.collect()
    assert registrar.locked == 0


def test_pinned_weights_give_the_same_video(resident):
    registrar = FakeRegistrar()
    assert torch.equal(video(install(golden_model(num_layers=4), CPU, True, registrar)), resident)
    assert registrar.most


def test_memory_is_locked_where_it_is_and_a_refusal_is_said(monkeypatch):
    calls, memory = [], torch.empty(100, dtype=torch.uint8)
    runtime = SimpleNamespace(
        cudaHostRegister=lambda *given: calls.append(given) or len(calls) - 1,
        cudaHostUnregister=lambda *given: calls.append(given),
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    page_lock(memory)()
    assert calls == [(memory.data_ptr(), 100, 0), "wait", (memory.data_ptr(),)]
    with pytest.warns(UserWarning, match="could not be page-locked"):
        page_lock(memory)()
    assert len(calls) == 4


def test_a_stage_gives_its_memory_back_before_the_next_one_comes(monkeypatch):
    log, enter, leave = [], OffloadedModule.enter, OffloadedModule.leave
    monkeypatch.setattr(
        sys.modules[OffloadedModule.__module__], "give_back", lambda device: log.append("give back")
    )
    monkeypatch.setattr(OffloadedModule, "enter", lambda each: log.append("enter") or enter(each))
    monkeypatch.setattr(OffloadedModule, "leave", lambda each: log.append("leave") or leave(each))
    video(install(golden_model(num_layers=4), CPU, stream=False))
    begins = [i for i, what in enumerate(log) if what == "give back"]
    assert len(begins) == 2  # transformer, decoder
    assert all(log[i - 1] == "leave" and log[i + 1] == "enter" for i in begins)
