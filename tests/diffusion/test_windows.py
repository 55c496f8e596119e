"""Context windows: schedules as published, weights that sum to one, answers blended as the formula says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.diffusion import SAMPLERS, Schedule, Windows, denoiser, guided
from cogvideox.diffusion.guidance import Constant
from cogvideox.diffusion.windows import ordered_halving, shuffled, take

FIXED = ["static", "multidiffusion"]
SCHEDULES = [*FIXED, "uniform", "looped"]


def spans(windows, step=0):
    """(first, one past the last) of windows that are runs of neighbouring frames."""
    laid = windows.at(step)
    assert all(window == tuple(range(window[0], window[-1] + 1)) for window in laid)
    return [(window[0], window[-1] + 1) for window in laid]


@pytest.mark.parametrize(("frames", "expected"), [
    (50, [(0, 22), (18, 40), (36, 50)]), (24, [(0, 22), (18, 24)]), (40, [(0, 22), (18, 40)]), (22, [(0, 22)]),
])  # fmt: skip
def test_multidiffusion_has_the_windows_of_void(frames, expected):
    windows = Windows(frames, 22, 4, "multidiffusion", "linear", unit=2)
    assert spans(windows) == expected == spans(windows, 17)


def test_static_windows_end_with_the_video():
    assert spans(Windows(13, 12, 1)) == [(0, 12), (1, 13)]
    assert spans(Windows(34, 12, 1)) == [(0, 12), (11, 23), (22, 34)]
    assert spans(Windows(30, 12, 4)) == [(0, 12), (8, 20), (16, 28), (18, 30)]


def test_bits_are_reversed_into_fractions():
    assert [ordered_halving(step) for step in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]


def test_looped_windows_follow_the_formula():
    """By hand: T 16, size 8, overlap 2; step 1 begins at round(16 / 2) = 8, and 16 + 8 ends it."""
    windows = Windows(16, 8, 2, "looped")
    assert windows.at(0) == tuple(tuple((j + n) % 16 for n in range(8)) for j in (0, 6, 12))
    assert windows.at(1) == tuple(tuple((j + n) % 16 for n in range(8)) for j in (8, 14, 20))


def test_uniform_windows_are_moved_back_inside():
    """By hand: step 1 of T 16, size 8, overlap 2 begins at 8, 14 and 20; 14-21 rolls over: 8-15 again and a new 0-7."""
    windows = Windows(16, 8, 2, "uniform")
    assert windows.at(0) == (tuple(range(8)), tuple(range(6, 14)), tuple(range(8, 16)))
    assert windows.at(1) == (tuple(range(8, 16)), tuple(range(8)), tuple(range(4, 12)))


def test_a_stride_adds_windows_of_every_second_frame():
    laid = Windows(32, 8, 2, "looped", stride=2).at(0)
    assert laid[0] == tuple(range(8)) and tuple(range(0, 16, 2)) in laid
    assert tuple((28 + 2 * n) % 32 for n in range(8)) in laid
    assert len(Windows(32, 8, 2, "looped", stride=8).at(0)) > len(laid)


def test_units_stay_together():
    for schedule in SCHEDULES:
        for step in range(5):
            for window in Windows(30, 8, 4, schedule, unit=2).at(step):
                assert all(b == a + 1 and a % 2 == 0 for a, b in zip(window[::2], window[1::2], strict=True))


@settings(max_examples=150, deadline=None)
@given(
    total=st.integers(1, 60), size=st.integers(1, 20), share=st.floats(0, 0.99),
    schedule=st.sampled_from(SCHEDULES), blend=st.sampled_from(["pyramid", "linear", "flat"]),
    stride=st.integers(1, 4), step=st.integers(0, 60), unit=st.sampled_from([1, 2]),
)  # fmt: skip
def test_every_frame_is_covered_and_its_weights_sum_to_one(
    total, size, share, schedule, blend, stride, step, unit
):
    windows = Windows(total * unit, size * unit, int(share * size) * unit, schedule, blend, stride, unit)
    laid = windows.at(step)
    assert len(set(laid)) == len(laid) and {frame for window in laid for frame in window} == set(
        range(total * unit)
    )
    ones = torch.ones(1, 1, total * unit, 1, 1)
    assert torch.allclose(windows.blended(step, ones, lambda window, x: x), ones, atol=1e-6)


def test_linear_weights_are_those_of_void():
    """0.2 0.4 0.6 0.8 on the first four latents but of the first window, reversed on the last four but of the last."""
    windows, found = Windows(50, 22, 4, "multidiffusion", "linear"), torch.zeros(50)
    ramp, answers = [0.2, 0.4, 0.6, 0.8], {0: 3.0, 18: -1.0, 36: 7.0}
    top, weight = torch.zeros(50), torch.zeros(50)
    for first, last in ((0, 22), (18, 40), (36, 50)):
        own = torch.ones(last - first)
        if first:
            own[:4] = torch.tensor(ramp)
        if last < 50:
            own[-4:] = torch.tensor(ramp[::-1])
        top[first:last] += own * answers[first]
        weight[first:last] += own
    x = torch.zeros(1, 1, 50, 1, 1)
    found = windows.blended(0, x, lambda window, x: torch.full_like(x, answers[window[0]]))
    assert torch.allclose(found.flatten(), top / weight, atol=1e-6)


@pytest.mark.parametrize("size", [5, 6])
def test_pyramid_weights_rise_to_the_middle(size):
    raw = [1, 2, 3, 2, 1] if size == 5 else [1, 2, 3, 3, 2, 1]
    windows = Windows(size + 1, size, size - 1)
    assert spans(windows) == [(0, size), (1, size + 1)]
    found = windows.blended(0, torch.zeros(1, 1, size + 1, 1, 1), lambda window, x: x + window[0])
    second = [raw[n - 1] / (raw[n - 1] + raw[n]) for n in range(1, size)]
    assert found.flatten().tolist() == pytest.approx([0, *second, 1])


def test_flat_weights_are_the_plain_mean():
    windows, x = Windows(7, 5, 3, "static", "flat"), torch.randn(2, 3, 7, 2, 2)
    found = windows.blended(0, x, lambda window, x: x * (window[0] + 1))
    assert torch.allclose(found[:, :, 2:5], x[:, :, 2:5] * 2) and torch.allclose(found[:, :, :2], x[:, :, :2])


def test_a_single_window_is_answered_as_it_is():
    x = torch.randn(1, 2, 5, 2, 2)
    answer = torch.randn(1, 2, 5, 2, 2, dtype=torch.bfloat16)
    for windows in (Windows(5, 5, 2), Windows(5, 9, 2, "uniform"), Windows(5, 7, 1, "looped")):
        assert windows.blended(3, x, lambda window, x: answer) is answer


def test_frames_are_taken_as_a_view_where_they_can_be():
    x = torch.randn(1, 2, 9, 1, 1)
    assert take(x, (2, 3, 4)).data_ptr() == x[:, :, 2:].data_ptr()
    assert torch.equal(take(x, (7, 8, 0)), x[:, :, [7, 8, 0]])


def test_a_window_follows_the_prompt_of_its_middle():
    windows = Windows(20, 6, 2, prompts=(0, 9))
    assert [windows.prompt_of(window) for window in windows.at(0)] == [0, 0, 1, 1, 1]


def test_noise_is_shuffled_as_in_freenoise():
    noise = torch.arange(20.0).reshape(1, 1, 20, 1, 1)
    mixed = shuffled(noise, 8, 2, torch.Generator().manual_seed(0)).flatten().tolist()
    assert mixed[:8] == list(range(8))
    assert sorted(mixed[8:14]) == list(range(6)) and mixed[8:14] != list(range(6))
    assert sorted(mixed[14:]) == sorted(mixed[6:12])
    assert noise.flatten().tolist() == list(range(20))
    assert sorted(shuffled(noise, 16, 2, torch.Generator().manual_seed(0)).flatten().tolist()[16:]) == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_step_of_the_blend_is_the_blend_of_the_steps(sampler):
    """VOID blends what each window's DDIM step gives; that is one step with the blended answer."""
    schedule, windows = Schedule(), Windows(24, 22, 4, "multidiffusion", "linear")
    step, x = schedule.path(4)[1], torch.randn(1, 2, 24, 1, 1, dtype=torch.float64)
    steps = {0: step}

    def answer(window, x):
        return x * (0.1 + window[0] / 100)

    def run(network, x):
        return SAMPLERS[sampler](denoiser(network), x, [steps[0]], noise=lambda draws: torch.zeros_like(x))

    whole = run(lambda x, t: windows.blended(0, x, answer), x)
    ramp, total, weight = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.zeros_like(x), torch.zeros(24)
    for window, own in zip(windows.at(0), (torch.ones(22), torch.ones(6)), strict=True):
        edge = slice(-4, None) if window[0] == 0 else slice(0, 4)
        own[edge] = ramp.flip(0) if window[0] == 0 else ramp
        part = run(lambda x, t, window=window: answer(window, x), take(x, window))
        total[:, :, list(window)] += part * own[:, None, None]
        weight[list(window)] += own
    assert torch.allclose(whole, total / weight[:, None, None], atol=1e-6)


def test_guidance_never_sees_the_windows():
    """Two branches in one batch are blended each by itself, and then guided."""
    windows, x = Windows(9, 5, 2), torch.randn(1, 1, 9, 1, 1)
    step = Schedule().path(4)[1]

    def network(x, t):
        shifts = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1)
        return windows.blended(0, x, lambda window, x: x + shifts * window[0])

    found = guided(network, Constant(scale=3.0).build())(x, step)
    plain = denoiser(lambda x, t: windows.blended(0, x, lambda window, x: x + 4 * window[0]))(x, step)
    assert torch.allclose(found, plain, atol=1e-5)
    assert math.isfinite(float(found.sum()))
