"""The losses of the autoencoder: closed forms, and two sides that never touch each other's weights."""

import pytest
import torch
from torch import nn

from cogvideox.vae.losses import (
    CriticConfig,
    PatchCritic,
    adaptive_weight,
    adversarial_losses,
    hinge_loss,
    kl_loss,
    perceptual_loss,
)
from support.golden import fill, fill_model

CRITIC = CriticConfig(width=4, most=8, stages=2, time_stages=1)


@pytest.fixture
def critic() -> PatchCritic:
    return fill_model(PatchCritic(CRITIC))


@pytest.mark.parametrize(("frames", "patches"), [(1, 1), (5, 3), (9, 5), (17, 9)])
def test_the_critic_judges_clips_of_any_length_and_single_images(critic, frames, patches):
    assert critic(fill("x", (2, 3, frames, 16, 24))).shape == (2, 1, patches, 4, 6)


def test_the_critic_judges_patches_independently(critic):
    """What happens at the far end of a clip changes no verdict at its beginning."""
    x = fill("x", (1, 3, 33, 8, 8))
    y = x.clone()
    y[:, :, 24:] += 1
    assert torch.equal(critic(x)[:, :, :6], critic(y)[:, :, :6])
    assert not torch.equal(critic(x)[:, :, -1], critic(y)[:, :, -1])


def test_hinge_loss_is_zero_beyond_the_margin():
    far = torch.full((2, 3), 1.5)
    assert hinge_loss(far, -far) == 0
    assert hinge_loss(torch.zeros(4), torch.zeros(4)) == 1
    assert hinge_loss(-far, far) == 2.5


def test_the_adaptive_weight_makes_both_losses_pull_equally():
    last = nn.Parameter(torch.tensor([1.0, 2.0]))
    loss, adversarial = 3 * last.sum(), 0.5 * last.sum()
    weight = adaptive_weight(loss, adversarial, last)
    norm = 0.5 * 2**0.5
    assert float(weight) == pytest.approx(3 * 2**0.5 / (norm + 1e-4), rel=1e-6)
    assert not weight.requires_grad
    flat = adaptive_weight(loss, 0 * last.sum(), last)
    assert float(flat) == 1e4  # never infinite


def test_each_side_moves_only_its_own_weights(critic):
    decoder = nn.Conv3d(3, 3, 1)
    pixels = fill("x", (1, 3, 5, 8, 8))
    made = decoder(pixels)
    loss = (made - pixels).abs().mean()
    sides = adversarial_losses(critic, made, pixels, loss, decoder.weight)
    sides.decoder.backward(retain_graph=True)
    assert all(p.grad is None for p in critic.parameters()) and decoder.weight.grad.abs().sum() > 0
    decoder.zero_grad()
    sides.critic.backward()
    assert decoder.weight.grad is None and all(p.grad is not None for p in critic.parameters())


def test_perceptual_loss_looks_at_the_chosen_frames():
    made, pixels = fill("a", (2, 3, 5, 4, 4)), fill("b", (2, 3, 5, 4, 4))
    chosen = torch.tensor([1, 4])
    expected = [
        (made[0, :, 1] - pixels[0, :, 1]).abs().mean(),
        (made[1, :, 4] - pixels[1, :, 4]).abs().mean(),
    ]
    found = perceptual_loss(lambda x, y: (x - y).abs().mean((1, 2, 3)), made, pixels, chosen)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_kl_of_the_standard_normal_is_zero():
    assert kl_loss(torch.zeros(3), torch.zeros(3)) == 0
    assert kl_loss(torch.full((3,), 2.0), torch.zeros(3)) == 2
