"""Guidance: the released wave, the textbook ramp, and the algebra of two branches."""

import pytest
import torch
from pydantic import TypeAdapter

from cogvideox.diffusion import (
    Constant,
    Cosine,
    Guidance,
    Guider,
    Projected,
    Schedule,
    ScheduleConfig,
    Wave,
    ZeroStar,
    denoiser,
    guided,
    is_guided,
)  # fmt: skip
from cogvideox.errors import ConfigError


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


# rules, intervals, a third branch


def row(*values):
    return torch.tensor([values], dtype=torch.float32)


PROMPT = row(1, 2, 3)


def predicted(guider: Guider, negative, prompt=PROMPT, **more):
    step = Schedule().path(4)[1]
    return guider.build()(step, {"negative": negative, "prompt": prompt, **more})


@pytest.mark.parametrize(
    ("guider", "negative", "expected"),
    [
        (Guider(rule=ZeroStar()), (1, 0, 1), (-4, 12, 8)),
        (Guider(), (2, 0, 1), (-4, 12, 13)),
        (Guider(rescale=0.7), (2, 0, 1), (-1.49352, 4.48056, 4.85394)),
        (Guider(rule=Projected(momentum=0)), (2, 0, 1), (-7.857143, 4.285714, 1.428571)),
        (Guider(rule=Projected(momentum=0, norm=1)), (2, 0, 1), (-1.285714, 1.428571, 1.142857)),
    ],
)
def test_rules_have_the_golden_values(guider, negative, expected):
    torch.testing.assert_close(predicted(guider, row(*negative)), row(*expected), atol=1e-5, rtol=1e-5)


def answers(count=3):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 2, 4, generator=g) for _ in range(count)]


def test_rules_agree_with_the_guiders_of_diffusers():
    guiders = pytest.importorskip("diffusers.guiders")
    negative, prompt, skipped = answers()
    pairs = [
        (Guider(rescale=0.3), guiders.ClassifierFreeGuidance(6.0, guidance_rescale=0.3)),
        (Guider(rule=ZeroStar(zero_steps=0)), guiders.ClassifierFreeZeroStarGuidance(6.0, zero_init_steps=0)),
        (Guider(rule=Projected(eta=1, norm=15, momentum=0)), guiders.AdaptiveProjectedGuidance(6.0)),
        (
            Guider(rule=Projected(eta=0.25, norm=2, momentum=0), rescale=0.5),
            guiders.AdaptiveProjectedGuidance(
                6.0, eta=0.25, adaptive_projected_guidance_rescale=2, guidance_rescale=0.5
            ),
        ),
    ]
    for ours, theirs in pairs:
        theirs.set_state(step=1, num_inference_steps=4, timestep=torch.tensor(749))
        expected = theirs.forward(prompt, negative).pred
        torch.testing.assert_close(predicted(ours, negative, prompt), expected, atol=1e-5, rtol=1e-5)
    theirs = guiders.SkipLayerGuidance(6.0, skip_layer_guidance_scale=1.5, skip_layer_guidance_layers=[1])
    found = predicted(Guider(stg=1.5), negative, prompt, skipped=skipped)
    torch.testing.assert_close(found, theirs.forward(prompt, negative, skipped).pred, atol=1e-5, rtol=1e-5)


def test_the_differences_of_a_run_are_remembered_as_in_diffusers():
    guiders = pytest.importorskip("diffusers.guiders")
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    theirs = guiders.AdaptiveProjectedGuidance(6.0, eta=0.0, adaptive_projected_guidance_rescale=0)
    theirs.momentum_buffer = MomentumBuffer(-0.5)
    ours = Guider(rule=Projected(eta=0, momentum=-0.5)).build()
    for step, scale in zip(Schedule().path(3), (1.0, 2.0, -0.5), strict=True):
        negative, prompt = (scale * each for each in answers(2))
        expected = theirs.forward(prompt, negative).pred
        found = ours(step, {"negative": negative, "prompt": prompt})
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_apg_that_keeps_everything_is_the_plain_rule():
    negative, prompt, _ = answers()
    kept = predicted(Guider(rule=Projected(eta=1, momentum=0)), negative, prompt)
    torch.testing.assert_close(kept, predicted(Guider(), negative, prompt), atol=1e-5, rtol=1e-5)


def test_a_guider_without_demands_has_the_bits_of_plain_guidance():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for step in Schedule().path(4):
        assert torch.equal(guided(branches, Guider())(x, step), guided(branches, lambda s: 6.0)(x, step))


def test_steps_outside_the_interval_ask_for_the_prompt_alone():
    asked = []

    def both(x, t):
        asked.append(len(x))
        return branches(x, t)

    def alone(x, t):
        asked.append(len(x))
        return x

    guider, x = Guider(start=0.2, stop=0.75), torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    denoise, path = guided(both, guider, alone=alone), Schedule().path(10)
    found = [denoise(x, step) for step in path]
    assert asked == [1, 1, 2, 2, 2, 2, 2, 1, 1, 1] and guider.evaluations(10) == sum(asked)
    for step, estimate in zip(path, found, strict=True):
        expected = guided(branches, lambda s: 6.0) if 2 <= step.index < 7 else denoiser(alone)
        assert torch.equal(estimate, expected(x, step))
    assert [guider.scale_at(step) for step in path] == [1, 1, 6, 6, 6, 6, 6, 1, 1, 1]


def test_an_interval_needs_a_network_for_the_prompt_alone():
    with pytest.raises(ConfigError, match="from 0.5 to 1: .* pass one as alone"):
        guided(branches, Guider(start=0.5))
    with pytest.raises(ConfigError, match="start 0.5 and stop 0.5: no step lies between"):
        Guider.parse({"start": 0.5, "stop": 0.5})


def test_the_first_steps_of_zero_star_are_zero_and_ask_nothing():
    path, x = Schedule().path(4), torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    asked = []
    denoise = guided(lambda y, t: asked.append(t) or branches(y, t), Guider(rule=ZeroStar(zero_steps=2)))
    assert torch.equal(denoise(x, path[1]), path[1].alpha_bar ** 0.5 * x) and not asked
    denoise(x, path[2])
    assert len(asked) == 1 and Guider(rule=ZeroStar(zero_steps=2)).evaluations(4) == 4


def test_without_guidance_only_the_skipped_branch_is_added():
    guider = Guider(guidance=Constant(scale=1), stg=0.5)
    assert guider.branches == ("prompt", "skipped") and Guider(stg=1).branches == (
        "negative",
        "prompt",
        "skipped",
    )
    _, prompt, skipped = answers()
    found = guider.build()(Schedule().path(4)[1], {"prompt": prompt, "skipped": skipped})
    torch.testing.assert_close(found, prompt + 0.5 * (prompt - skipped))
