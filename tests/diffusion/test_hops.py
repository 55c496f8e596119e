"""Moves between noise levels, checked against the schedule's own formulas and on a Gaussian whose flow is known."""

from __future__ import annotations

import math

import pytest
import torch

from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.diffusion.hops import angle, hop, noised_up, renoised, velocity_between

SCHEDULE = Schedule(ScheduleConfig())
TIMES = (0, 124, 499, 874, 999)


def at(t: int) -> float:
    return angle(float(SCHEDULE.alpha_bar[t]))


def pair(shape=(2, 3, 4)):
    draws = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=draws), torch.randn(shape, generator=draws)


@pytest.mark.parametrize("start", TIMES[1:])
@pytest.mark.parametrize("end", TIMES)
def test_with_the_true_velocity_a_hop_lands_on_the_noised_video(start, end):
    x0, eps = pair()
    x, v = SCHEDULE.add_noise(x0, eps, start), SCHEDULE.velocity(x0, eps, start)
    torch.testing.assert_close(
        hop(x, v, at(start), at(end)), SCHEDULE.add_noise(x0, eps, end), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("start", TIMES[1:])
def test_the_velocity_between_two_places_is_finite_and_leads_from_one_to_the_other(start):
    x, there = pair()
    v = velocity_between(x, there, at(start), at(start - 60))
    assert torch.isfinite(v).all()
    torch.testing.assert_close(hop(x, v, at(start), at(start - 60)), there, atol=1e-4, rtol=1e-4)


def test_each_clip_has_its_own_angles():
    x, v = pair()
    starts, ends = torch.tensor([at(999), at(499)]), torch.tensor([at(499), at(0)])
    together = hop(x, v, starts, ends)
    alone = [hop(x[i : i + 1], v[i : i + 1], float(starts[i]), float(ends[i])) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_noising_up_gives_the_marginal_of_the_later_level():
    x0 = torch.full((200_000, 1), 0.7)
    draws = torch.Generator().manual_seed(0)
    at_499 = SCHEDULE.add_noise(x0, torch.randn(x0.shape, generator=draws), 499)
    for end in (600, 874, 999):
        up = noised_up(at_499, at(499), at(end), torch.randn(x0.shape, generator=draws))
        assert abs(float(up.mean()) - 0.7 * math.cos(at(end))) < 0.01
        assert abs(float(up.std()) - math.sin(at(end))) < 0.01


def test_renoising_with_eta_1_is_a_hop_and_with_0_forgets_the_noise():
    x0, eps = pair()
    noise = torch.ones_like(x0)
    v = SCHEDULE.velocity(x0, eps, 874)
    x = SCHEDULE.add_noise(x0, eps, 874)
    torch.testing.assert_close(
        renoised(x0, eps, at(499), 1.0, noise), hop(x, v, at(874), at(499)), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(renoised(x0, eps, at(499), 0.0, noise), SCHEDULE.add_noise(x0, noise, 499))


def test_the_target_of_a_teacher_that_knows_a_gaussian_is_its_exact_flow():
    """Data N(m, s^2): v(x, a) is known, many small teacher steps follow the flow map, and so does one target step."""
    m, s = 0.4, 0.5

    def velocity(x, a):
        var = math.cos(a) ** 2 * s * s + math.sin(a) ** 2
        cov = math.sin(a) * math.cos(a) * (1 - s * s)
        return (x - math.cos(a) * m) * cov / var - math.sin(a) * m

    def flow(x, a, b):
        scale = [math.sqrt(math.cos(t) ** 2 * s * s + math.sin(t) ** 2) for t in (a, b)]
        return math.cos(b) * m + (x - math.cos(a) * m) * scale[1] / scale[0]

    x = begin = torch.linspace(-2, 2, 9)[:, None]
    edges = [math.pi / 2 * (1 - k / 40) for k in range(41)]
    for start, end in zip(edges, edges[1:], strict=False):
        middle = (start + end) / 2
        half = hop(x, velocity(x, start), start, middle)
        twice = hop(half, velocity(half, middle), middle, end)
        v = velocity_between(x, twice, start, end)
        assert torch.isfinite(v).all()
        x = hop(x, v, start, end)
        torch.testing.assert_close(x, twice, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x, flow(begin, math.pi / 2, 0.0), atol=0.02, rtol=0)
