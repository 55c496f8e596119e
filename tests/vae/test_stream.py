"""Streams of any length equal chunked coding and hold a constant amount."""

import pytest
import torch

from cogvideox.errors import FrameError
from cogvideox.vae import VAE, Remember, VAEConfig
from support.golden import fill, fill_model

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return fill_model(VAE(SMALL)).requires_grad_(False)


def cut(x, lengths):
    return iter(x.split(lengths, dim=2))


@pytest.mark.parametrize(
    ("lengths", "known"),
    [([1] * 17, False), ([17], False), ([5, 12], False), ([3, 10, 4], True), ([20], True), ([7, 6], True),
     ([8], True), ([4], False), ([1], False), ([4, 4], False)],
)  # fmt: skip
def test_streamed_encoding_equals_chunked(vae, lengths, known):
    x = fill("x", (1, 3, sum(lengths), 16, 16))
    parts = list(vae.stream_encode(cut(x, lengths), frames=sum(lengths) if known else None))
    found, expected = torch.cat([p.mean for p in parts], dim=2), vae.encode(x).mean
    assert torch.equal(found, expected)
    assert torch.cat([p.logvar for p in parts], dim=2).shape == expected.shape


@pytest.mark.parametrize(
    ("lengths", "known"),
    [([1] * 5, False), ([5], False), ([2, 3], False), ([1, 3], True), ([6], True), ([1], False)],
)
def test_streamed_decoding_equals_chunked(vae, lengths, known):
    z = fill("z", (1, 4, sum(lengths), 2, 2))
    parts = list(vae.stream_decode(cut(z, lengths), latents=sum(lengths) if known else None))
    assert torch.equal(torch.cat(parts, dim=2), vae.decode(z))


def test_a_stream_yields_before_its_source_ends(vae):
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield fill(f"x{i}", (1, 3, 1, 8, 8))

    stream = vae.stream_encode(source())
    next(stream)
    assert len(taken) == 9
    next(stream)
    assert len(taken) == 17


def test_what_is_remembered_does_not_grow(vae):
    past = Remember()
    sizes = []
    for i in range(4):
        vae.decoder(fill(f"z{i}", (1, 4, 3 if i == 0 else 2, 2, 2)), past)
        sizes.append(sum(kept.untyped_storage().nbytes() for kept in past.tails.values()))
    assert sizes[0] == sizes[1] == sizes[2] == sizes[3]


def test_a_stream_of_another_length_is_refused(vae):
    with pytest.raises(FrameError, match="8n \\+ 1"):
        list(vae.stream_encode([fill("x", (1, 3, 12, 8, 8))]))
    with pytest.raises(FrameError, match="announced with 16"):
        list(vae.stream_encode([fill("x", (1, 3, 17, 8, 8))], frames=16))


def test_a_thousand_frames_streamed_equal_chunked_bit_for_bit(vae):
    x = fill("long", (1, 3, 1001, 8, 8))
    latents = vae.encode(x).mean
    streamed = [part.mean for part in vae.stream_encode(cut(x, 7), frames=1001)]
    assert torch.equal(torch.cat(streamed, dim=2), latents)
    assert torch.equal(
        torch.cat(list(vae.stream_decode(cut(latents, 3), latents=251)), dim=2), vae.decode(latents)
    )
