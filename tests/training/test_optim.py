"""Muon on a CPU without units for bfloat16: the same update, computed in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cogvideox.training.optim as optim
from cogvideox.errors import ConfigError


@pytest.mark.parametrize("native", [True, False])
def test_muon_is_torchs_up_to_the_rounding_of_bfloat16(native, monkeypatch):
    monkeypatch.setattr(optim, "half_is_native", lambda _: native)
    torch.manual_seed(0)
    start, gradients = torch.randn(48, 96), torch.randn(3, 48, 96)
    moved = []
    for kind in (optim.Muon, torch.optim.Muon):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.02, weight_decay=1e-4)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        moved.append(weight.detach() - start)
        assert list(optimizer.state[weight]) == ["momentum_buffer"]
    if native:
        assert torch.equal(*moved)
        return
    assert not torch.equal(*moved) and (moved[0] - moved[1]).norm() < 0.02 * moved[1].norm()


def test_without_units_nothing_is_rounded(monkeypatch):
    """Of an orthogonal gradient the float32 iteration makes the polynomial of its singular values, which are one."""
    monkeypatch.setattr(optim, "half_is_native", lambda _: False)
    square = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    weight = nn.Parameter(torch.zeros(32, 32))
    optimizer = optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0)
    weight.grad = square.clone()
    optimizer.step()
    value = torch.tensor(32**-0.5, dtype=torch.float64)
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    torch.testing.assert_close(-weight.detach(), square * float(value), atol=1e-5, rtol=0)


class Reader(nn.Module):
    """The names of a transformer: the layer that reads latents, and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_input_projection_has_a_rate_of_its_own(name):
    module = Reader()
    built = optim.build_optimizers(module, optim.OptimConfig(name=name, lr=1e-3, input_lr=5e-3, warmup=0))
    rates = {id(p): g["peak"] for o in built for g in o.param_groups for p in g["params"]}
    assert len(rates) == 4
    assert [rates[id(p)] for p in module.patch_embed.parameters()] == [5e-3, 5e-3]
    assert rates[id(module.blocks[0].bias)] == 1e-3 and rates[id(module.blocks[0].weight)] in (1e-3, 0.02)
    optim.set_learning_rate(built, 50, 100, optim.OptimConfig(input_lr=5e-3, warmup=0, floor=0))
    halved = {id(p): g["lr"] for o in built for g in o.param_groups for p in g["params"]}
    assert halved[id(module.patch_embed.proj.weight)] == pytest.approx(2.5e-3)


def test_a_rate_for_an_input_projection_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="input_lr.*patch_embed"):
        optim.build_optimizers(nn.Linear(4, 4), optim.OptimConfig(input_lr=5e-3))


def test_warmup_stable_decay():
    config = optim.OptimConfig(schedule="wsd", warmup=10, decay=0.2, floor=0.1)
    rates = [optim.learning_rate_factor(step, 100, config) for step in range(101)]
    assert rates[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert (
        rates[10:81] == [1.0] * 71 and rates[90] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    )
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_the_decay_of_a_cosine_is_refused():
    with pytest.raises(ConfigError, match="decay.*wsd"):
        optim.OptimConfig(decay=0.5)
