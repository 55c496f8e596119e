"""The same weights in diffusers' AutoencoderKLCogVideoX and in ours give the same numbers."""

import pytest
import torch

from cogvideox.vae import VAE, Tiles, VAEConfig, decode_tiled, encode_tiled
from support.golden import fill, fill_model

diffusers = pytest.importorskip("diffusers")

SMALL = VAEConfig(
    block_out_channels=(8, 16, 16, 24), layers_per_block=2, latent_channels=4, norm_num_groups=4
)
# the family of the model that ships
SHIPPED = VAEConfig(block_out_channels=(32, 64, 128, 128), layers_per_block=1, norm_num_groups=16)
DEEP = VAEConfig(
    block_out_channels=(8, 8, 16, 16, 16), layers_per_block=1, norm_num_groups=4, temporal_compression_ratio=8
)


def pair(config: VAEConfig):
    ours = fill_model(VAE(config)).requires_grad_(False)
    theirs = diffusers.AutoencoderKLCogVideoX.from_config(config.released()).requires_grad_(False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture(scope="module")
def small():
    return pair(SMALL)


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 12, 17, 20])
def test_chunked_encoding(small, frames):
    ours, theirs = small
    x = fill("x", (2, 3, frames, 24, 32))
    found, expected = ours.encode(x), theirs.encode(x).latent_dist
    close(found.mean, expected.mean)
    close(found.logvar, expected.logvar)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    close(found.sample(generators[0]), expected.sample(generators[1]))
    close(found.kl() / 1000, expected.kl().sum(1) / 1000)  # theirs leaves the last axis of a video unsummed


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 5, 6])
def test_chunked_decoding(small, latents):
    ours, theirs = small
    z = fill("z", (2, 4, latents, 3, 4))
    close(ours.decode(z), theirs.decode(z).sample)


@pytest.mark.parametrize("frames", [9, 17])
def test_whole_coding_is_one_large_chunk(small, frames):
    ours, theirs = small
    x = fill("x", (1, 3, frames, 16, 16))
    expected = theirs.encoder(x)[0].chunk(2, dim=1)[0]
    found = ours.encode(x, coding="whole").mean
    close(found, expected)
    close(ours.decode(found, coding="whole"), theirs.decoder(found)[0])


def test_tiled_coding(small):
    ours, theirs = small
    theirs.enable_tiling(48, 80)
    try:
        x, z = fill("x", (1, 3, 9, 88, 144)), fill("z", (1, 4, 4, 11, 17))
        close(encode_tiled(ours, x, Tiles(height=48, width=80)).mean, theirs.encode(x).latent_dist.mean)
        close(decode_tiled(ours, z, Tiles(height=48, width=80)), theirs.decode(z).sample)
    finally:
        theirs.disable_tiling()


@pytest.mark.parametrize("config", [SHIPPED, DEEP], ids=["shipped", "16x16x8"])
def test_other_widths_groups_and_depths(config):
    ours, theirs = pair(config)
    x = fill("x", (1, 3, 17, 32, 32))
    found = ours.encode(x).mean
    close(found, theirs.encode(x).latent_dist.mean)
    close(ours.decode(found), theirs.decode(found).sample)


def test_diffusers_reads_our_folder(tmp_path, small):
    ours, theirs = small
    theirs.save_pretrained(tmp_path)
    read = VAEConfig.parse(diffusers.AutoencoderKLCogVideoX.load_config(tmp_path))
    assert read == ours.config


def test_names_shapes_and_counts_at_real_size():
    with torch.device("meta"):
        ours = VAE(VAEConfig())
        theirs = diffusers.AutoencoderKLCogVideoX()
    shapes = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert len(shapes) == 436
    assert sum(p.numel() for p in ours.parameters()) == 215_583_907
