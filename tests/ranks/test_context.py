"""The video autoencoder over several ranks equals one process: outputs, input gradients, weight gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from cogvideox.errors import FrameError
from cogvideox.parallel.context import TimeSplit
from cogvideox.parallel.exchange import all_reduce
from cogvideox.vae import VAE, VAEConfig
from support.golden import fill, fill_model
from support.processes import together

TINY = VAEConfig(block_out_channels=(4, 4, 4), layers_per_block=1, latent_channels=2, norm_num_groups=2)
CASES = [(ranks, frames) for ranks in (2, 3, 4) for frames in (17, 161)] + [(2, 8), (4, 16)]


def far(found: torch.Tensor, expected: torch.Tensor, least: float = 1e-8) -> float:
    """Largest difference, relative to the largest value (or to ``least``: some gradients are zero but for rounding)."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(least))


def compare(ranks: int, frames: int, group: dist.ProcessGroup) -> dict[str, float]:
    """A training pass of the clip split over ``group`` beside the same pass by myself alone."""
    pixels = fill("x", (1, 3, frames, 8, 12))
    vae, mine = fill_model(VAE(TINY)), fill_model(VAE(TINY))
    whole = pixels.clone().requires_grad_()
    latents = vae.encode(whole, "whole")
    noise = fill("noise", latents.mean.shape)
    made = vae.decode(latents.mean + noise * torch.exp(0.5 * latents.logvar), "whole")
    loss = (made - whole).square().mean() + 0.01 * latents.mean.square().mean()
    loss.backward()

    split = TimeSplit.of(frames, TINY, group)
    part = split.pixels(pixels).clone().requires_grad_()
    seen = split.encode(mine, part)
    drawn = seen.mean + split.latents(noise) * torch.exp(0.5 * seen.logvar)
    shown = split.decode(mine, drawn)
    share = (
        shown - part
    ).square().sum() / made.numel() + 0.01 * seen.mean.square().sum() / latents.mean.numel()
    share.backward()
    with torch.no_grad():
        without = split.decode(mine, split.latents(latents.mean))
        plain = vae.decode(latents.mean, "whole")
        least = 0.1 * max(float(q.grad.abs().max()) for q in vae.parameters())
        grads = [
            far(all_reduce(p.grad, group), q.grad, least)
            for p, q in zip(mine.parameters(), vae.parameters(), strict=True)
        ]
        return {
            "latents": far(split.whole_latents(seen.mean), latents.mean),
            "pixels": far(split.whole_clip(shown), made),
            "pixels without gradients": far(split.whole_clip(without), plain),
            "loss": abs(float(all_reduce(share.detach(), group) - loss)),
            "input gradients": far(split.whole_clip(part.grad), whole.grad),
            "weight gradients": max(grads),
        }


def refusals(group: dist.ProcessGroup) -> list[str]:
    found = []
    for frames in (9, 13, 15):
        try:
            TimeSplit.of(frames, TINY, group)
        except FrameError as error:
            found.append(str(error))
    return found


def gather_gradients(group: dist.ProcessGroup) -> float:
    """A loss of the joined clip, by every rank: each owner gets the sum of what all ranks want."""
    split = TimeSplit.of(17, TINY, group)
    mine = split.pixels(fill("x", (1, 1, 17, 1, 1))).clone().requires_grad_()
    weights = fill("w", (1, 1, 17, 1, 1)) * (1 + dist.get_rank(group))
    (split.whole_clip(mine) * weights).sum().backward()
    total = 1 + 2 + 3 + 4
    return far(mine.grad, split.pixels(fill("w", (1, 1, 17, 1, 1))) * total)


def everything() -> dict:
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in (2, 3, 4)}
    found: dict = {}
    for ranks, frames in CASES:
        if dist.get_rank() < ranks:
            found[ranks, frames] = compare(ranks, frames, groups[ranks])
    found["refused"] = refusals(groups[4])
    found["gathered"] = gather_gradients(groups[4])
    return found


@pytest.fixture(scope="module")
def found() -> list[dict]:
    return together(4, everything)


@pytest.mark.parametrize(("ranks", "frames"), CASES)
def test_ranks_together_equal_one_process(found, ranks, frames):
    for rank in range(ranks):
        differences = found[rank][ranks, frames]
        assert max(differences.values()) <= 1e-5, (rank, differences)


def test_clips_that_cannot_be_split_are_refused(found):
    too_few, odd, other = found[0]["refused"]
    assert "over 4 ranks" in too_few and "3 latent frames" in too_few
    assert "8n + 1" in odd and "8n + 1" in other


def test_gradients_of_a_joined_clip_return_to_their_owners(found):
    assert max(rank["gathered"] for rank in found) <= 1e-6
