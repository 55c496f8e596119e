"""Muon on a CPU without units for bfloat16: the same update, computed in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cogvideox.training.optim as optim


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
