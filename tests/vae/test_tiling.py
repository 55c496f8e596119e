"""Tiles: strides that agree, sizes that come out right, seams that fade."""

import pytest
import torch

from cogvideox.errors import SizeError
from cogvideox.vae import VAE, Tiles, VAEConfig, decode_tiled, encode_tiled
from cogvideox.vae.tiling import blend
from support.golden import fill, fill_model

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return fill_model(VAE(SMALL)).requires_grad_(False)


def test_the_usual_tiles_are_the_released_ones():
    tiles = Tiles.usual(VAEConfig())
    assert tiles == Tiles() and (tiles.height, tiles.width) == (240, 360)
    rows, columns = (side for _, side in tiles.grid(VAEConfig()))
    assert (rows.latent_stride, rows.pixel_stride, rows.pixel_blend, rows.latent_blend) == (25, 200, 40, 5)
    assert (columns.latent_stride, columns.pixel_stride) == (36, 288)
    assert (columns.pixel_blend, columns.latent_blend) == (72, 9)


@pytest.mark.parametrize("size", [8, 30, 32, 48, 64, 100, 256, 480, 721])
@pytest.mark.parametrize("stages", [1, 2, 4, 5])
def test_usual_tiles_are_legal_for_any_autoencoder(size, stages):
    config = VAEConfig(
        block_out_channels=(32,) * stages, temporal_compression_ratio=1, sample_height=size, sample_width=size
    )
    grid = Tiles.usual(config).grid(config)
    assert size / 2 <= grid.height.pixels < size / 2 + config.spatial_compression_ratio
    assert grid.height.latent_stride > 0


def test_tiles_whose_strides_disagree_are_refused(vae):
    with pytest.raises(SizeError, match="tile height 32"):
        encode_tiled(vae, torch.zeros(1, 3, 1, 64, 96), Tiles(height=32, width=48))
    with pytest.raises(SizeError, match="multiple of 8"):
        decode_tiled(vae, torch.zeros(1, 4, 1, 8, 12), Tiles(height=44, width=80))


def test_a_picture_no_larger_than_a_tile_is_not_cut(vae):
    tiles = Tiles(height=48, width=80)
    x, z = fill("x", (1, 3, 5, 48, 80)), fill("z", (1, 4, 2, 6, 10))
    assert torch.equal(encode_tiled(vae, x, tiles).mean, vae.encode(x).mean)
    assert torch.equal(decode_tiled(vae, z, tiles), vae.decode(z))


@pytest.mark.parametrize(("height", "width"), [(48, 88), (56, 80), (88, 144), (24, 168)])
def test_tiled_sizes_are_those_of_untiled(vae, height, width):
    tiles = Tiles(height=48, width=80)
    latents = encode_tiled(vae, fill("x", (1, 3, 3, height, width)), tiles).mean
    assert latents.shape == (1, 4, 1, height // 8, width // 8)
    assert decode_tiled(vae, latents, tiles).shape == (1, 3, 1, height, width)


def test_blending_equal_tiles_changes_nothing():
    x = fill("x", (1, 2, 1, 9, 8))
    torch.testing.assert_close(blend(x[:, :, :, :6], x[:, :, :, 3:], 3, dim=3), x[:, :, :, 3:])


def test_blending_fades_linearly():
    found = blend(torch.zeros(1, 1, 1, 1, 4), torch.ones(1, 1, 1, 1, 5), 4, dim=4)
    assert found.flatten().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
