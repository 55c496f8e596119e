"""Noise that moves with a video: it stays where nothing moves, goes along exactly, and every frame alone is normal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cogvideox.diffusion.warped_noise import NoiseGrid, shared_noise, warped_noise
from cogvideox.errors import SizeError
from cogvideox.noise import generator


def flow(dx, dy, size=64):
    return torch.stack((torch.full((size, size), float(dx)), torch.full((size, size), float(dy))))


def test_without_motion_the_noise_is_the_same_in_every_frame():
    first, *others = warped_noise([flow(0, 0)] * 3, 4, 16, 16, 4, generator(0, "test"))
    assert all(torch.equal(first, each) for each in others)


@pytest.mark.parametrize(("dx", "dy"), [(8, 0), (0, -4), (4, 12)])
def test_whole_steps_move_it_exactly_and_leave_normal_noise(dx, dy):
    first, second, third = warped_noise([flow(dx, dy, 256)] * 2, 4, 64, 64, 4, generator(1, "test"))
    x, y = dx // 4, dy // 4
    inside = torch.roll(first, (y, x), (1, 2))[:, 8:-8, 8:-8]
    assert torch.equal(second[:, 8:-8, 8:-8], inside)
    for frame in (first, second, third):
        assert abs(float(frame.std()) - 1) < 0.03 and abs(float(frame.mean())) < 0.03


def test_a_growing_picture_keeps_independent_normal_noise():
    centre = torch.arange(256) - 127.5
    grow = torch.stack((centre.expand(256, 256) * 0.5, centre[:, None].expand(256, 256) * 0.5))
    *_, last = warped_noise([grow] * 3, 4, 64, 64, 4, generator(2, "test"))
    assert abs(float(last.std()) - 1) < 0.05
    beside = (last[:, :, 1:] * last[:, :, :-1]).mean()
    assert abs(float(beside)) < 0.05  # neighbours know nothing of each other


def test_points_of_one_origin_become_independent_and_keep_their_sum():
    origin = torch.tensor([2, 2, 2, 2, 0, 1, 3, 3])  # the last two come from nowhere
    noise = torch.tensor([[1.0, 2.0, 3.0], [-0.5, 0.1, 0.7]])
    counts = torch.bincount(origin).float()
    mixed = torch.stack(list(shared_noise(noise, origin, counts, generator(3, "test"))))
    torch.testing.assert_close(mixed[:, :4].sum(1), 2 * noise[:, 2])
    torch.testing.assert_close(mixed[:, 4:6], noise[:, :2])
    assert len(mixed[0].unique()) == len(origin)


def test_where_points_gather_their_noise_is_added_by_weight():
    """Two columns move onto one: it holds their sum, of variance 1, and has gathered more than the other."""
    grid = NoiseGrid.fresh(2, 3, 2, generator(4, "test"))
    grid = replace(grid, weight=grid.weight * torch.tensor([3.0, 4.0]))
    onto = torch.stack((torch.tensor([0.0, -1.0]).expand(3, 2), torch.zeros(3, 2)))
    moved = grid.warped(onto, generator(5, "test"))
    both = (3 * grid.noise[:, :, 0] + 4 * grid.noise[:, :, 1]) / 5
    torch.testing.assert_close(moved.noise[:, :, 0], both)
    assert moved.weight[0, :, 0].min() > moved.weight[0, :, 1].max()


def test_a_flow_of_another_size_is_refused():
    with pytest.raises(SizeError, match=r"flow of \[2, 8, 8\]: noise of 4x4"):
        list(warped_noise([flow(0, 0, 8)], 4, 4, 4, 4, generator(0, "test")))
