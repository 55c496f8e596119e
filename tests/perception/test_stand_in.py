"""The stand-in for LPIPS that ships."""

import torch

from cogvideox.perception.lpips import load_lpips
from cogvideox.training.tasks.lpips import blocky, blurred, brighter, harsh_and_benign, shifted, textures
from cogvideox.world import render, sample_scene


def test_the_stand_in_ranks_damage_that_squared_error_cannot():
    """At equal squared error a blurred or blocky picture is further away than a shifted or brighter one."""

    net = load_lpips()
    frames = torch.stack(
        [torch.from_numpy(render(sample_scene(7, i, "held_out"), frames=1)[0]) for i in range(8)]
    )
    draw = torch.Generator().manual_seed(0)
    x = textures(frames.permute(0, 3, 1, 2).float() / 127.5 - 1, draw)
    assert float(net(x, x).abs().max()) == 0
    for harsh in (blurred, blocky):
        for benign in (brighter, shifted):
            worse, better = harsh_and_benign(harsh, benign, x, draw)
            torch.testing.assert_close(
                (worse - x).square().mean(), (better - x).square().mean(), rtol=0.05, atol=0
            )
            assert (net(x, worse) > net(x, better)).float().mean() > 0.7, (harsh, benign)
