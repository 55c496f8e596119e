"""Golden numbers: made by diffusers 0.42.1 in float32 on a CPU, weights and inputs from ``golden.py``."""

import pytest
import torch

from cogvideox.vae import VAE, Tiles, VAEConfig, decode_tiled, encode_tiled
from support.golden import fill, fill_model, param, summary

TILES = Tiles(height=48, width=80)


@pytest.fixture(scope="module")
def vae() -> VAE:
    config = VAEConfig(block_out_channels=(32, 64, 64, 128), latent_channels=4, scaling_factor=0.7)
    return fill_model(VAE(config)).requires_grad_(False)


def close(x, row):
    assert summary(x) == pytest.approx([float(v) for v in row.split()], abs=1e-4)


def test_the_hash_itself():
    expected = [-0.600159287, 0.267285407, 0.138778448, 0.836141229, 0.89181459, -0.702717245]
    torch.testing.assert_close(fill("x", 6), torch.tensor(expected))
    torch.testing.assert_close(param("a.weight", 3), torch.tensor([1.178631663, 0.894550443, 1.058262467]))
    torch.testing.assert_close(param("a.bias", 3), torch.tensor([0.064163409, 0.043947965, -0.028130269]))
    square = torch.tensor([[1.093890905, -0.645744205], [0.356783062, -0.386583686]])
    torch.testing.assert_close(param("a.weight", (2, 2)), square)


@pytest.mark.parametrize(
    ("frames", "row"),
    [
        (1, ".134290 .474655 .113048 -.045034 .606461 .341469 .805880 -.408593"),
        (2, ".117304 .482375 -.145817 .034830 .832170 .583058 .407077 -.616524"),
        (8, ".197654 .438646 -.697445 -.123321 .883281 .021914 .612301 -.725708"),
        (9, ".132180 .429352 .130308 -.571524 -.060109 .875467 .647829 -.561952"),
        (17, ".101950 .465790 -.322421 -.911284 .301979 -.066681 .028594 -.482658"),
        (20, ".165264 .436228 -.535200 -.169956 .195252 .044309 .275415 -.073087"),
    ],
)
def test_golden_means(vae, frames, row):
    close(vae.encode(fill("input.pixels", (1, 3, frames, 32, 48))).mean, row)


def test_golden_logvar(vae):
    found = vae.encode(fill("input.pixels", (1, 3, 9, 32, 48))).logvar
    close(found, ".007588 .315619 .281227 -.173796 1.123076 -.261457 -.247138 .214365")


@pytest.mark.parametrize(
    ("latents", "row"),
    [
        (1, "-.275577 .492082 -.039754 .018752 .040152 -.540480 -.506522 -.264430"),
        (2, "-.286268 .443978 -.124173 -.123892 -.035605 -.176157 -.109803 -.215081"),
        (3, "-.276534 .445861 .078310 .093009 -.091877 .190546 -.035477 -.000373"),
        (4, "-.289670 .441762 -.429918 -.455069 -.467050 .142242 -.047655 .034873"),
        (5, "-.275758 .433981 .056172 -.029409 -.000108 -.658160 .248667 .098534"),
    ],
)
def test_golden_pixels(vae, latents, row):
    close(vae.decode(fill("input.latent", (1, 4, latents, 4, 6))), row)


def test_golden_tiles(vae):
    pixels, latents = fill("input.pixels", (1, 3, 9, 80, 144)), fill("input.latent", (1, 4, 3, 10, 18))
    close(vae.encode(pixels).mean, ".162287 .503897 -.172463 .051911 .512384 -.316082 -.159209 .207726")
    close(
        encode_tiled(vae, pixels, TILES).mean,
        ".179590 .489103 -.199352 -.010157 .607770 -.280323 -.104879 .336413",
    )
    close(vae.decode(latents), "-.256958 .435334 -.328621 -.268654 .079261 -.130532 -.284397 .231135")
    close(
        decode_tiled(vae, latents, TILES),
        "-.263127 .441078 -.323940 -.248253 .095465 -.133181 -.301148 .223930",
    )
