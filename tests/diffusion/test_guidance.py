"""Guidance: the released wave, the textbook ramp, and the algebra of two branches."""

import pytest
import torch
from pydantic import TypeAdapter

from cogvideox.diffusion import (
    Constant,
    Cosine,
    Guidance,
    Schedule,
    ScheduleConfig,
    Wave,
    denoiser,
    guided,
    is_guided,
)  # fmt: skip


def scales(spec, steps=50):
    return {step.t: spec.build()(step) for step in Schedule().path(steps)}


def test_the_wave_has_the_released_values():  # diffusers 0.42.1
    wave = scales(Wave(scale=6))
    expected = {
        999: 2.291487,
        979: 2.543503,
        959: 6.974352,
        939: 6.420358,
        919: 2.788098,
        59: 1.000001,
        39: 1.000004,
        19: 1.123398,
    }
    assert {t: wave[t] for t in expected} == pytest.approx(expected, abs=1e-6)


def test_the_cosine_rises_smoothly_from_one_to_one_plus_scale():
    values = list(scales(Cosine(scale=6)).values())
    assert values[0] == 1.0 and values[-1] == pytest.approx(7.0)
    assert all(a <= b for a, b in zip(values, values[1:], strict=False))


def test_constant_is_constant():
    assert set(scales(Constant(scale=3.5)).values()) == {3.5}


def test_a_single_step_is_defined_for_every_kind():
    for spec in (Constant(), Wave(), Cosine()):
        assert 0 <= scales(spec, steps=1)[999] <= 7


def test_the_kind_chooses_the_spec():
    assert TypeAdapter(Guidance).validate_python({"kind": "wave", "scale": 2}) == Wave(scale=2)


def test_guidance_is_off_at_a_scale_of_one():
    assert not is_guided(Constant(scale=1)) and is_guided(Wave(scale=1.5))


def branches(x, t):
    """Answers -1 for the negative half and x for the prompt half."""
    half = len(x) // 2
    return torch.cat([torch.full_like(x[:half], -1.0), x[half:]])


@pytest.mark.parametrize("scale", [0.0, 1.0, 6.0])
def test_guidance_moves_along_the_difference_of_the_branches(scale):
    x, step = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), Schedule().path(4)[1]
    result = guided(branches, lambda s: scale)(x, step)
    expected = denoiser(lambda y, t: -1 + scale * (y + 1))(x, step)
    torch.testing.assert_close(result, expected)


def test_guidance_is_computed_in_float32():
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    result = guided(branches, lambda s: 6.0)(x, Schedule().path(4)[1])
    assert result.dtype == torch.float32


def test_guiding_v_equals_guiding_the_clean_estimate():
    # SAT guides x0; the two are the same because x0 is linear in v
    x, step = (
        torch.randn(1, 5, generator=torch.Generator().manual_seed(0)),
        Schedule(ScheduleConfig()).path(7)[3],
    )
    negative, prompt = (
        denoiser(lambda y, t: torch.full_like(y, -1.0))(x, step),
        denoiser(lambda y, t: y)(x, step),
    )
    torch.testing.assert_close(guided(branches, lambda s: 6.0)(x, step), negative + 6.0 * (prompt - negative))


def test_the_network_is_told_the_time_of_every_sample():
    seen = []
    guided(lambda x, t: seen.append(t) or x, lambda s: 2.0)(torch.zeros(3, 2), Schedule().path(4)[1])
    assert seen[0].tolist() == [749] * 6


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_other_predictions_give_the_same_clean_estimate(kind):
    schedule, g = Schedule(), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 4, generator=g)
    step = schedule.path(4)[1]
    x = schedule.add_noise(x0, eps, step.t)
    answer = {"epsilon": eps, "sample": x0}[kind]
    torch.testing.assert_close(denoiser(lambda y, t: answer, kind)(x, step), x0, atol=1e-4, rtol=0)
