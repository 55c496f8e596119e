"""What a layout says of every token; patches there and back."""

import torch

from cogvideox.transformer.layout import TEXT, VIDEO, Layout, TokenGrid
from cogvideox.transformer.transformer import patchify, unpatchify


def test_every_token_knows_clip_modality_and_place():
    layout = Layout.packed([2, 1], [TokenGrid(1, 1, 2), TokenGrid(2, 1, 1)])
    assert layout.tokens == 7 and not layout.is_plain
    assert layout.clip().tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert layout.modality().tolist() == [TEXT, TEXT, VIDEO, VIDEO, TEXT, VIDEO, VIDEO]
    nowhere = [-1, -1, -1]
    assert layout.position().tolist() == [
        nowhere,
        nowhere,
        [0, 0, 0],
        [0, 0, 1],
        nowhere,
        [0, 0, 0],
        [1, 0, 0],
    ]


def test_the_plain_case_is_one_clip():
    layout = Layout.plain(3, TokenGrid(1, 2, 2))
    assert layout.is_plain and layout.lengths == [3, 4] and layout.clip_lengths == [7]


def test_equal_layouts_are_one_key():
    assert len({Layout.plain(3, TokenGrid(1, 2, 2)), Layout.packed([3], [TokenGrid(1, 2, 2)])}) == 1


def test_patches_there_and_back():
    latents = torch.randn(2, 3, 4, 6, 8)
    for patch in ((1, 2, 2), (2, 2, 2), (1, 1, 1)):
        grid = TokenGrid(*(size // p for size, p in zip((4, 6, 8), patch, strict=True)))
        assert torch.equal(unpatchify(patchify(latents, patch), grid, patch), latents)


def test_flat_patches_meet_the_convolution_weight_in_its_order():
    latents, weight = torch.randn(1, 3, 1, 4, 6), torch.randn(5, 3, 2, 2)
    flat = patchify(latents, (1, 2, 2)) @ weight.flatten(1).T
    conv = torch.nn.functional.conv2d(latents[:, :, 0], weight, stride=2)
    assert torch.allclose(flat[0].T.reshape(5, 2, 3), conv[0], atol=1e-5)
