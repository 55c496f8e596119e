"""The schedule: values of the released checkpoints, and the identities between x, x0, eps and v."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.checkpoints.record import read_record
from cogvideox.checkpoints.shipped import shipped_folder
from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.errors import ConfigError

# alpha_bar as the public schedulers compute it (diffusers 0.42.1)
TIMES = (0, 1, 10, 19, 99, 250, 499, 750, 900, 979, 998, 999)
LEVELS_2B = (
    0.9974543276, 0.9948006264, 0.9707857689, 0.9465729792, 0.7308668668, 0.3890537092,
    0.0959695617, 0.0108389019, 9.45453e-4, 2.71944e-5, 6.23e-8, 0.0,
)  # fmt: skip
LEVELS_5B = (
    0.99915, 0.9982334461, 0.989793733, 0.9810104569, 0.8880858948, 0.6524570153,
    0.2423591666, 0.0327991181, 2.9603934e-3, 8.57878e-5, 1.968e-7, 0.0,
)  # fmt: skip


@pytest.mark.parametrize(("shift", "levels"), [(3.0, LEVELS_2B), (1.0, LEVELS_5B)])
def test_signal_levels_are_those_of_the_released_models(shift, levels):
    alpha_bar = Schedule(ScheduleConfig(snr_shift_scale=shift)).alpha_bar
    assert alpha_bar.dtype == torch.float64
    for t, level in zip(TIMES, levels, strict=True):
        assert alpha_bar[t].item() == pytest.approx(level, rel=2e-3 if level < 1e-6 else 1e-5, abs=1e-11)


def test_the_shift_divides_the_signal_to_noise_ratio():
    config = ScheduleConfig(rescale_betas_zero_snr=False)
    plain = Schedule(config).alpha_bar
    shifted = Schedule(config.override(["snr_shift_scale=3.0"])).alpha_bar
    assert torch.allclose(3.0 * shifted / (1 - shifted), plain / (1 - plain), rtol=1e-12)


def test_levels_fall_from_almost_clean_to_pure_noise():
    alpha_bar = Schedule().alpha_bar
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[-1] == 0


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [
        (50, [999, 979, 959], 19),
        (30, [999, 966, 932, 899], 32),
        (28, [999, 963, 928], 35),
        (4, [999, 749, 499, 249], 249),
    ],
)
def test_trailing_times(steps, first, last):
    times = Schedule().timesteps(steps)
    assert (len(times), times[: len(first)], times[-1]) == (steps, first, last)


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
@pytest.mark.parametrize("steps", [1, 7, 333, 1000])
def test_times_fall_and_stay_inside_the_schedule(spacing, steps):
    times = Schedule(ScheduleConfig(timestep_spacing=spacing)).timesteps(steps)
    assert len(times) == steps
    assert all(a > b for a, b in zip(times, times[1:], strict=False))
    assert times[-1] >= 0 and times[0] <= 999


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_wrong_number_of_steps_is_refused_with_both_values(steps):
    with pytest.raises(ConfigError, match=f"{steps}.*1000"):
        Schedule().timesteps(steps)


def test_previous_rules_agree_exactly_when_steps_divide_the_schedule():
    schedule = Schedule()
    assert schedule.path(50, "released") == schedule.path(50, "corrected")
    assert schedule.path(30, "released") != schedule.path(30, "corrected")


@pytest.mark.parametrize("steps", [28, 30, 50])
def test_corrected_steps_join_without_gaps_and_end_clean(steps):
    path = Schedule().path(steps, "corrected")
    assert all(a.next_alpha_bar == b.alpha_bar for a, b in zip(path, path[1:], strict=False))
    assert path[-1].next_alpha_bar == 1.0 and path[-1].final


def test_the_released_rule_leaves_noise_when_28_steps_are_asked():
    last = Schedule().path(28, "released")[-1]
    assert last.t - 1000 // 28 == 0 and not last.final
    assert last.next_alpha_bar == pytest.approx(0.99915)


def test_strength_keeps_the_last_part_of_the_path():
    path = Schedule().path(10, strength=0.8)
    assert [step.t for step in path] == Schedule().timesteps(10)[2:]
    assert path[0].back_alpha_bar is None and path[0].count == 8


def test_set_alpha_to_one_false_ends_at_time_zero():
    schedule = Schedule(ScheduleConfig(set_alpha_to_one=False))
    assert schedule.path(4)[-1].next_alpha_bar == schedule.alpha_bar[0].item()


@settings(max_examples=30, deadline=None)
@given(t=st.integers(0, 999), shift=st.sampled_from([1.0, 3.0]), seed=st.integers(0, 2**31))
def test_x_v_x0_and_eps_determine_each_other(t, shift, seed):
    schedule = Schedule(ScheduleConfig(snr_shift_scale=shift))
    x0, eps = torch.randn(2, 1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    x, v = schedule.add_noise(x0, eps, t), schedule.velocity(x0, eps, t)
    torch.testing.assert_close(schedule.clean(x, v, t), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(schedule.noise(x, v, t), eps, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(t=st.integers(0, 999), seed=st.integers(0, 2**31))
def test_the_weighted_x0_loss_is_the_plain_v_loss(t, seed):
    # SAT trains on (x0_hat - x0)^2 / (1 - alpha_bar); the two are the same number
    schedule = Schedule()
    x0, eps, error = torch.randn(
        3, 1, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    x, v = schedule.add_noise(x0, eps, t), schedule.velocity(x0, eps, t)
    x0_loss = (schedule.clean(x, v + error, t) - schedule.clean(x, v, t)).square().mean() / (
        1 - schedule.alpha_bar[t]
    )
    # float32 leaves ~1e-7 absolute on x0, which the weight enlarges at the cleanest times
    assert x0_loss.item() == pytest.approx(error.square().mean().item(), rel=1e-3)


def test_a_batch_of_times_equals_one_time_each():
    schedule, g = Schedule(), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 2, 2, 2, generator=g)
    t = torch.tensor([0, 500, 999])
    together = schedule.add_noise(x0, eps, t)
    for i in range(3):
        assert torch.equal(together[i : i + 1], schedule.add_noise(x0[i : i + 1], eps[i : i + 1], int(t[i])))
    assert torch.equal(together[2], eps[2])  # the last time is pure noise


def test_noising_keeps_the_dtype_and_rounds_once():
    schedule, g = Schedule(), torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(1, 8, generator=g).bfloat16() for _ in range(2))
    noised = schedule.add_noise(x0, eps, 300)
    assert noised.dtype == torch.bfloat16
    assert torch.equal(noised, schedule.add_noise(x0.float(), eps.float(), 300).bfloat16())


def test_epsilon_prediction_from_pure_noise_is_refused():
    with pytest.raises(ConfigError, match="epsilon"):
        ScheduleConfig.parse({"prediction_type": "epsilon"})


def test_clipping_warns_that_it_has_no_effect():
    with pytest.warns(UserWarning, match="clip_sample"):
        ScheduleConfig(clip_sample=True)


def test_explicit_betas_give_the_same_schedule():
    betas = (torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).tolist()
    assert torch.equal(Schedule(ScheduleConfig(trained_betas=tuple(betas))).alpha_bar, Schedule().alpha_bar)
    with pytest.raises(ConfigError, match="trained_betas has 2"):
        ScheduleConfig.parse({"trained_betas": (0.1, 0.2)})


def test_listed_times_end_at_the_next_one_and_then_at_the_final_level():
    schedule = Schedule(ScheduleConfig(snr_shift_scale=3.0))
    times = [999, 856, 665, 399]
    path = schedule.path(50, times=times)
    levels = schedule.alpha_bar.tolist()
    assert [step.t for step in path] == times and [step.count for step in path] == [4] * 4
    assert [step.next_alpha_bar for step in path] == [*(levels[t] for t in times[1:]), 1.0]
    assert [step.back_alpha_bar for step in path] == [None, *(levels[t] for t in times[:3])]
    assert [step.final for step in path] == [False] * 3 + [True]
    assert [step.t for step in schedule.path(50, strength=0.5, times=times)] == [665, 399]


@pytest.mark.parametrize("times", [(5, 6), (5, 5), (1000,), (-1,)])
def test_times_that_the_schedule_has_not_or_that_rise_are_refused(times):
    with pytest.raises(ConfigError, match="times"):
        Schedule().path(50, times=times)


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_public_schedulers_visit_the_times_of_the_shipped_student_and_take_no_list_of_others(name):
    """``docs/steps.md`` says so: their number of steps and guidance 1 are all that such a model needs there."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import retrieve_timesteps

    folder = shipped_folder("tiny")
    times = read_record(folder).times
    scheduler = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(len(times))
    assert tuple(scheduler.timesteps.tolist()) == times
    assert Schedule().path(len(times)) == Schedule().path(
        50, times=times
    )  # steps end alike too: 8 divides 1000
    with pytest.raises(ValueError, match="does not support custom"):
        retrieve_timesteps(scheduler, timesteps=[999, 856, 665, 399])
