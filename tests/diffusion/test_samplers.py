"""Samplers: worked values of the released ones, and a Gaussian whose answer is known in closed form."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cogvideox.diffusion import Schedule, ScheduleConfig, ddim, denoiser, dpmpp_2m, dpmpp_sde, pinned
from cogvideox.errors import ConfigError

X, V = torch.tensor([[1.0, -0.5]]), torch.tensor([[0.25, 0.75]])
DETERMINISTIC = pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])


def schedule(shift=1.0):
    return Schedule(ScheduleConfig(snr_shift_scale=shift))


def step_at(t, shift):
    return [step for step in schedule(shift).path(50) if step.t == t]


def constant_v(x, t):
    return V


@pytest.mark.parametrize(
    ("shift", "t", "expected"),
    [
        (3.0, 999, (0.99868268, -0.50390434)),
        (3.0, 979, (0.99855918, -0.50426573)),
        (3.0, 499, (0.99417853, -0.51659465)),
        (3.0, 19, (0.91513413, -0.65981704)),
        (1.0, 999, (0.99764156, -0.50692517)),
        (1.0, 979, (0.99742198, -0.50755519)),
        (1.0, 499, (0.99159592, -0.52346247)),
        (1.0, 19, (0.95600909, -0.59858179)),
    ],
)
def test_ddim_step_values(shift, t, expected):  # diffusers 0.42.1
    x = ddim(denoiser(constant_v), X, step_at(t, shift))
    torch.testing.assert_close(x, torch.tensor([expected]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shift", "t", "x0"), [(3.0, 979, (-0.24478178, -0.75259721)), (1.0, 499, (0.27469349, -0.89896917))]
)
def test_clean_estimate_values(shift, t, x0):
    torch.testing.assert_close(
        denoiser(constant_v)(X, step_at(t, shift)[0]), torch.tensor([x0]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("shift", "t", "expected"),
    [
        (3.0, 999, (-0.00130371, -0.00391112)),
        (3.0, 979, (0.47574463, -0.24524096)),
        (3.0, 499, (0.92480993, -0.52405953)),
        (1.0, 999, (-0.00231554, -0.00694663)),
        (1.0, 979, (0.4744637, -0.25030467)),
        (1.0, 499, (0.93826443, -0.55734628)),
    ],
)
def test_dpm_sde_step_values_with_an_earlier_estimate(shift, t, expected):  # diffusers 0.42.1, noise 0
    step = step_at(t, shift)[0]
    hold = replace(
        step, index=0, alpha_bar=0.5, next_alpha_bar=0.5
    )  # leaves x alone, but its estimate is remembered
    estimates = iter([torch.tensor([[0.1, 0.2]]), denoiser(constant_v)(X, step)])
    if t == 999:
        out = dpmpp_sde(denoiser(constant_v), X, [step], noise=lambda draws: torch.zeros(1, 2))
    else:
        out = dpmpp_sde(lambda x, s: next(estimates), X, [hold, step], noise=lambda draws: torch.zeros(1, 2))
    torch.testing.assert_close(out, torch.tensor([expected]), atol=1e-6, rtol=0)


def gaussian(mean, std):
    """The exact denoiser when x0 ~ N(mean, std^2): the posterior mean of x0 given x."""

    def denoise(x, step):
        alpha, sigma2 = step.alpha_bar**0.5, 1 - step.alpha_bar
        gain = alpha * std**2 / (step.alpha_bar * std**2 + sigma2)
        return mean + gain * (x - alpha * mean)

    return denoise


@DETERMINISTIC
def test_the_probability_flow_carries_a_gaussian_to_the_exact_answer(sampler):
    # the flow maps x_T to mean + std * x_T, because it keeps quantiles
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    mean, std = 0.7, 0.4
    out = sampler(gaussian(mean, std), x, schedule().path(1000, "corrected"))
    torch.testing.assert_close(out, mean + std * x, atol=0.02, rtol=0)


def test_second_order_is_closer_than_first_order():
    x, path = torch.linspace(-2, 2, 9, dtype=torch.float64), schedule().path(40, "corrected")
    error = {
        f.__name__: (f(gaussian(0.7, 0.4), x, path) - (0.7 + 0.4 * x)).abs().max() for f in (ddim, dpmpp_2m)
    }
    assert error["dpmpp_2m"] < error["ddim"]


def test_the_stochastic_sampler_reaches_the_gaussian_in_distribution():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=g)
    out = dpmpp_sde(
        gaussian(0.7, 0.4), x, schedule().path(100), noise=lambda draws: torch.randn(20_000, generator=g)
    )
    assert out.mean().item() == pytest.approx(0.7, abs=0.02)
    assert out.std().item() == pytest.approx(0.4, abs=0.02)


@DETERMINISTIC
@pytest.mark.parametrize("steps", [1, 2, 28, 50])
def test_a_point_is_found_exactly_when_the_path_ends_clean(sampler, steps):
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    out = sampler(lambda y, s: torch.full_like(y, 0.3), x, schedule().path(steps, "corrected"))
    torch.testing.assert_close(out, torch.full_like(x, 0.3))


def test_the_released_rule_with_28_steps_stops_before_the_point():
    x = torch.full((1, 3), 2.0)
    out = ddim(lambda y, s: torch.zeros_like(y), x, schedule().path(28, "released"))
    assert out.abs().max() > 1e-3


def test_dpm_2m_equals_ddim_where_there_is_nothing_to_extrapolate():
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    path = schedule().path(50)[:1]
    torch.testing.assert_close(
        dpmpp_2m(denoiser(lambda y, t: 0.3 * y), x, path), ddim(denoiser(lambda y, t: 0.3 * y), x, path)
    )


def test_the_released_sampler_draws_twice_on_second_order_steps():
    draws = []

    def noise(count):
        draws.append(count)
        return torch.zeros(1, 2)

    dpmpp_sde(lambda x, s: x, X, schedule().path(5), noise=noise)
    assert draws == [1, 2, 2, 2, 1]


@pytest.mark.parametrize(("sampler", "most"), [(ddim, 5), (dpmpp_2m, 8), (dpmpp_sde, 12)])
def test_a_step_takes_few_tensor_operations(sampler, most):
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += not func.is_view
            return func(*args, **(kwargs or {}))

    x, v, spare = torch.randn(2, 1, 16, 3, 4, 4).unbind(0) + (torch.randn(1, 16, 3, 4, 4),)
    denoise = denoiser(lambda y, t: v)
    path = schedule().path(10)
    counts = []
    for steps in (5, 6):
        with Count() as count:
            sampler(
                denoise,
                x,
                path[:steps],
                noise=lambda draws: [torch.randn_like(spare) for _ in range(draws)][-1],
            )
        counts.append(count.calls)
    assert counts[1] - counts[0] <= most


def test_a_stochastic_sampler_without_noise_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        dpmpp_sde(lambda x, s: x, X, schedule().path(5))


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m, dpmpp_sde])
def test_x_keeps_its_dtype(sampler):
    x = X.bfloat16()
    out = sampler(denoiser(lambda y, t: y), x, schedule().path(3), noise=lambda draws: torch.zeros_like(x))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m, dpmpp_sde])
@pytest.mark.parametrize("previous", ["released", "corrected"])
def test_known_frames_come_back_unchanged_and_are_seen_with_the_right_noise(sampler, previous):
    g = torch.Generator().manual_seed(0)
    known = torch.randn(1, 2, 1, 3, 3, generator=g)
    x = torch.randn(1, 2, 4, 3, 3, generator=g)
    start, seen = x[:, :, :1].clone(), {}

    def network(y, t):
        seen[int(t[0])] = y[:, :, :1].clone()
        return torch.tanh(y)

    path = schedule().path(10, previous)
    out = sampler(pinned(denoiser(network), known), x, path, noise=lambda draws: torch.zeros_like(x))
    torch.testing.assert_close(out[:, :, :1], known)
    if sampler is not dpmpp_sde:  # with its own noise set to zero, the stochastic one shrinks eps instead
        for step in path:
            expected = step.alpha_bar**0.5 * known + (1 - step.alpha_bar) ** 0.5 * start
            torch.testing.assert_close(seen[step.t], expected, atol=1e-5, rtol=0)


def test_an_exception_after_a_step_stops_the_run():
    class Stop(Exception):
        pass

    def after(step, x, x0):
        if step.index == 1:
            raise Stop

    with pytest.raises(Stop):
        ddim(lambda x, s: x, X, schedule().path(5), after=after)
