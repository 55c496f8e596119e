"""Without a device, weights are loaded where the command line would compute: on the GPU that is there."""

from __future__ import annotations

import warnings

import pytest

import cogvideox
from cogvideox import device
from cogvideox.checkpoints import diffusers
from cogvideox.errors import ConfigError


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with so many free bytes; nothing is computed on it."""

    def with_free(free: int) -> None:
        monkeypatch.setattr(device, "best_device", lambda: "cuda")
        monkeypatch.setattr(device, "check_device", lambda name: None)
        monkeypatch.setattr(device, "free_bytes", lambda name: free)

    return with_free


def test_the_device_is_the_gpu_when_the_weights_fit(gpu):
    gpu(20_000_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.device_for(11_000_000_000) == "cuda"
    with pytest.warns(UserWarning, match=r"22 GB of weights do not fit its 20 GB .* loaded on the CPU"):
        assert device.device_for(22_000_000_000) == "cpu"


def test_a_gpu_that_does_not_answer_falls_back(monkeypatch):
    def broken(name: str) -> None:
        raise ConfigError(f"device {name!r}: not available here (no driver); choose cpu")

    monkeypatch.setattr(device, "best_device", lambda: "cuda")
    monkeypatch.setattr(device, "check_device", broken)
    with pytest.warns(UserWarning, match="no driver.*loaded on the CPU"):
        assert device.device_for(1) == "cpu"


def test_load_asks_for_the_room_of_all_weights(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(diffusers, "device_for", lambda needed: asked.append(needed) or "cpu")
    model = cogvideox.load("tiny")
    stored = sum(
        p.numel() * p.element_size() for part in model.networks().values() for p in part.parameters()
    )
    assert len(asked) == 1 and asked[0] >= 0.9 * stored / 2 and model.device.type == "cpu"
    cogvideox.load("tiny", device="cpu")
    assert len(asked) == 1
