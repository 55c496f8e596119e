"""Our schedule and samplers against the public schedulers (diffusers), step by step and whole runs."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from cogvideox.diffusion import Schedule, ScheduleConfig, ddim, denoiser, dpmpp_sde  # noqa: E402

SHAPE = (1, 4, 3, 4, 6)


def theirs(name, shift, spacing="trailing"):
    return getattr(diffusers, name)(
        snr_shift_scale=shift, timestep_spacing=spacing, rescale_betas_zero_snr=True,
        prediction_type="v_prediction", clip_sample=False,
    )  # fmt: skip


def ours(shift, spacing="trailing"):
    return Schedule(ScheduleConfig(snr_shift_scale=shift, timestep_spacing=spacing))


def network(x, t):
    return torch.sin(3 * x + t.float()[0] / 300) + 0.2 * x


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_are_equal(shift):
    assert torch.equal(ours(shift).alpha_bar, theirs("CogVideoXDDIMScheduler", shift).alphas_cumprod)


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_times_are_equal_for_every_number_of_steps(spacing):
    schedule, scheduler = ours(1.0, spacing), theirs("CogVideoXDDIMScheduler", 1.0, spacing)
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        assert schedule.timesteps(steps) == scheduler.timesteps[:steps].tolist(), steps


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [50, 30, 28])
def test_ddim_runs_are_equal(shift, steps):
    x = start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    scheduler = theirs("CogVideoXDDIMScheduler", shift)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(1)), t, x, return_dict=False)[0]
    torch.testing.assert_close(ddim(denoiser(network), start, ours(shift).path(steps)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [50, 30, 28])
@pytest.mark.parametrize("skip", [0, 3])
def test_dpm_runs_are_equal_from_the_same_seed(shift, steps, skip):
    x = start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    scheduler, g = theirs("CogVideoXDPMScheduler", shift), torch.Generator().manual_seed(42)
    scheduler.set_timesteps(steps)
    times, before = scheduler.timesteps[skip:], None
    for i, t in enumerate(times):
        back = times[i - 1] if i else None
        x, before = scheduler.step(network(x, t.expand(1)), before, t, back, x, generator=g)[:2]
    g = torch.Generator().manual_seed(42)
    path = ours(shift).path(steps, strength=(steps - skip + 0.5) / steps if skip else 1.0)

    def noise(draws):
        return [torch.randn(SHAPE, generator=g) for _ in range(draws)][-1]

    mine = dpmpp_sde(denoiser(network), start, path, noise=noise)
    torch.testing.assert_close(mine, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shift", "t", "expected"),
    [
        (3.0, 979, (0.47574463, -0.24524096)),
        (1.0, 979, (0.4744637, -0.25030467)),
        (3.0, 499, (0.92480993, -0.52405953)),
    ],
)
def test_the_worked_dpm_values_are_what_the_public_scheduler_gives(shift, t, expected):
    scheduler = theirs("CogVideoXDPMScheduler", shift)
    scheduler.set_timesteps(50)
    x, v, old = torch.tensor([1.0, -0.5]), torch.tensor([0.25, 0.75]), torch.tensor([0.1, 0.2])
    sigma = _sigma(ours(shift), t)
    g = torch.Generator().manual_seed(0)
    out = scheduler.step(v, old, t, t + 20, x, generator=g)[0]
    g = torch.Generator().manual_seed(0)
    torch.randn(2, generator=g)
    noise = torch.randn(2, generator=g)
    torch.testing.assert_close(out - sigma * noise, torch.tensor(expected), atol=1e-5, rtol=0)


def _sigma(schedule, t):
    here, end = schedule.alpha_bar[t].item(), schedule.alpha_bar[t - 20].item()
    ratio = (here / (1 - here)) / (end / (1 - end))  # exp(-2h)
    return (1 - end) ** 0.5 * (1 - ratio) ** 0.5


@pytest.mark.parametrize("t", [0, 437, 999])
def test_noise_and_velocity_are_equal(t):
    x0, eps = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    scheduler, times = theirs("CogVideoXDPMScheduler", 3.0), torch.tensor([t])
    torch.testing.assert_close(
        ours(3.0).add_noise(x0, eps, times), scheduler.add_noise(x0, eps, times), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        ours(3.0).velocity(x0, eps, times), scheduler.get_velocity(x0, eps, times), atol=1e-6, rtol=0
    )
