"""Kernels in Triton beside plain torch: by its interpreter, by its compiler without a GPU, and the choice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cogvideox import gpu_kernels
from cogvideox.errors import ConfigError
from cogvideox.vae.frames import Frames, faster_kernels

ROOM = Path(__file__).parent / "support"
WITH_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CPU = torch.device("cpu")


def printed(script: str, **env: str) -> dict:
    run = subprocess.run(
        [sys.executable, str(ROOM / script)], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@WITH_TRITON
def test_kernels_are_as_exact_as_the_plain_form():
    """Errors against float64: in bfloat16 no larger than those of the plain form, in float32 a few roundings."""
    found = printed("interpreted_kernels.py", TRITON_INTERPRET="1")
    assert len(found) == 20
    for case, (kernel, plain) in found.items():
        for mine, theirs in zip(kernel, plain, strict=True):
            assert mine <= (theirs if "bfloat16" in case else 3e-6), (case, kernel, plain)


@WITH_TRITON
def test_kernels_compile_for_sm_90():
    """By Triton's own compiler and ptxas, without a GPU: no spilled registers, 16 bytes a load."""
    found = printed("compiled_kernels.py")
    assert len(found) == 5
    for case, facts in found.items():
        assert facts["cubin"] > 0 and facts["spilled"] == 0 and facts["wide"] > 0, (case, facts)


def test_a_kernel_refuses_gradients():
    x = torch.randn(1, 4, 2, 8, requires_grad=True)
    with pytest.raises(ConfigError, match="without a backward pass"):
        gpu_kernels.ops.norm_rotate(x, None, None, None, 1e-6)
    with torch.no_grad():
        gpu_kernels.ops.norm_rotate(x, None, None, None, 1e-6)
    assert x.mean(-1).abs().max() < 1e-6


def test_a_kernel_in_use_keeps_out_of_training():
    x, scale, shift = torch.randn(1, 3, 2, 4, 4), torch.randn(1, 3, 1, 1, 1), torch.randn(1, 3, 1, 1, 1)
    with gpu_kernels.using(frozenset({"scale_shift_silu"})):
        assert not gpu_kernels.is_used("scale_shift_silu")
        with_gradients = Frames([x], scale.requires_grad_(), shift).read(0, x)
        assert with_gradients.requires_grad
        with torch.no_grad():
            assert gpu_kernels.is_used("scale_shift_silu")
            without = Frames([x], scale, shift).read(0, x)
    torch.testing.assert_close(without, with_gradients.detach())
    assert not gpu_kernels.is_used("scale_shift_silu")


@pytest.mark.parametrize("table", [(1, 1, 1), (1, 2, 2), (3, 2, 4)])
@torch.no_grad()
def test_frames_by_the_kernels_reference(table):
    """Into a window behind what came before, and with a first frame that has an entry of its own."""
    torch.manual_seed(0)
    x, before = torch.randn(2, 6, 5, 4, 8), torch.randn(2, 6, 2, 4, 8)
    scale, shift = torch.randn(2, 6, *table), torch.randn(2, 6, *table)

    def window(names: set[str]) -> torch.Tensor:
        with gpu_kernels.using(frozenset(names)):
            return Frames([x], scale, shift).window(before, 0, x, None)

    torch.testing.assert_close(window({"scale_shift_silu"}), window(set()))


def test_nothing_is_chosen_without_a_gpu():
    assert not gpu_kernels.may_run(CPU)
    assert faster_kernels(CPU, torch.float32) == frozenset()


def slow(x: torch.Tensor) -> torch.Tensor:
    time.sleep(0.01)
    return x.mul_(2)


def test_the_faster_right_one_is_chosen():
    inputs = (torch.ones(3),)
    assert gpu_kernels.is_faster("fast", lambda x: x * 2, slow, inputs)
    assert not gpu_kernels.is_faster("slow", slow, lambda x: x * 2, inputs)
    assert inputs[0].eq(1).all()


@pytest.mark.parametrize("kernel", [lambda x: x * 3, lambda x: x * float("nan"), lambda x: x[:1]])
def test_a_wrong_kernel_is_named_and_left(kernel):
    with pytest.warns(UserWarning, match="kernel odd: wrong or not finite"):
        assert not gpu_kernels.is_faster("odd", kernel, slow, (torch.ones(3),))


def test_a_failing_kernel_is_named_and_left():
    def failing(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    with pytest.warns(UserWarning, match="kernel odd: no such instruction"):
        assert not gpu_kernels.is_faster("odd", failing, slow, (torch.ones(3),))
