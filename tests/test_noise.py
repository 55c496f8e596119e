"""Noise that is gone past leaves the generator where drawing it would have."""

from __future__ import annotations

import pytest
import torch

from cogvideox.noise import skip_normal


@pytest.mark.parametrize("shape", [(16,), (13, 16, 60), (2, 3, 5, 8, 8), (15,), (17,), (4, 7), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_skipping_is_drawing(shape, dtype):
    drawn, skipped = (torch.Generator().manual_seed(3) for _ in range(2))
    torch.randn(shape, generator=drawn, dtype=dtype)
    skip_normal(shape, skipped, dtype)
    assert torch.equal(drawn.get_state(), skipped.get_state())
    assert torch.equal(torch.randn(33, generator=drawn), torch.randn(33, generator=skipped))
