"""A ControlNet against one built of diffusers' blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cogvideox.transformer import Transformer
from cogvideox.transformer.calls import answering, at_step, in_window
from cogvideox.transformer.controlnet import Control, compress_time, controlled
from cogvideox.video import Video
from parity.test_conditions import by_hand, latents_of
from parity.test_generate import CLOSE
from support.golden import fill
from support.models import golden_controlnet, golden_frames, golden_model, write_controlnet

diffusers = pytest.importorskip("diffusers")
from diffusers.models.embeddings import CogVideoXPatchEmbed, TimestepEmbedding, Timesteps  # noqa: E402
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock  # noqa: E402


class Theirs(nn.Module):
    """The published network, from diffusers' parts."""

    def __init__(self, out: int | None) -> None:
        super().__init__()
        self.controlnet_encode_first = nn.Sequential(nn.Conv2d(192, 96, 1), nn.GroupNorm(2, 96), nn.ReLU())
        self.controlnet_encode_second = nn.Sequential(nn.Conv2d(96, 48, 1), nn.GroupNorm(2, 48), nn.ReLU())
        self.patch_embed = CogVideoXPatchEmbed(
            patch_size=2, in_channels=52, embed_dim=32, text_embed_dim=24, bias=True, sample_width=6,
            sample_height=4, sample_frames=9, temporal_compression_ratio=4, max_text_seq_length=5,
            spatial_interpolation_scale=1.875, temporal_interpolation_scale=1.0, use_positional_embeddings=True,
        )  # fmt: skip
        self.time_proj = Timesteps(32, True, 0)
        self.time_embedding = TimestepEmbedding(32, 16, "silu")
        self.transformer_blocks = nn.ModuleList(
            CogVideoXBlock(
                dim=32, num_attention_heads=2, attention_head_dim=16, time_embed_dim=16, attention_bias=True
            )
            for _ in range(2)
        )
        self.out_projectors = nn.ModuleList(nn.Linear(32, out) for _ in range(2)) if out else None

    def forward(self, latents, text, t, pixels, rotary):
        b, f = pixels.shape[:2]
        x = nn.functional.pixel_unshuffle(pixels.flatten(0, 1), 8)

        def halve(x):
            x = x.unflatten(0, (b, -1))
            odd = x.shape[1] % 2
            return torch.cat([x[:, :odd], (x[:, odd::2] + x[:, odd + 1 :: 2]) / 2], dim=1).flatten(0, 1)

        x = halve(self.controlnet_encode_first(x))
        x = halve(self.controlnet_encode_second(x)).unflatten(0, (b, -1))
        h = self.patch_embed(text, torch.cat([latents, x], dim=2))
        emb = self.time_embedding(self.time_proj(t))
        text, video = h[:, :5], h[:, 5:]
        out = []
        for i, block in enumerate(self.transformer_blocks):
            video, text = block(video, text, emb, rotary)
            out.append(self.out_projectors[i](video) if self.out_projectors is not None else video)
        return out


def both(out: int | None):
    ours = golden_controlnet(out)
    theirs = Theirs(out).eval()
    missing, unknown = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unknown and all("pos_embedding" in name for name in missing)  # computed
    return ours, theirs


@pytest.mark.parametrize("out", [None, 64])
@pytest.mark.parametrize("rotary", [False, True])
def test_it_adds_what_the_published_network_adds(out, rotary):
    ours, theirs = both(out)
    latents, text = fill("x", (2, 4, 3, 4, 6)), fill("text", (2, 5, 24))
    pixels, t = fill("pixels", (1, 3, 9, 32, 48)), torch.tensor([500, 500])
    table = cos_sin = None
    if rotary:
        from cogvideox.transformer.layout import Layout, TokenGrid

        base = golden_model().transformer
        table = base.rotary.table(Layout.plain(5, TokenGrid(3, 2, 3)), torch.device("cpu"))
        video = table[5:, 0]
        cos_sin = tuple(part.repeat_interleave(2, dim=1) for part in (video.real, video.imag))
    with torch.no_grad():
        found = [each.clone() for each in ours.states(latents, text, t, ours.encode(pixels), table)]
        twice = pixels.transpose(1, 2).expand(2, -1, -1, -1, -1)
        expected = theirs(latents.transpose(1, 2), text, t, twice, cos_sin)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_time_is_compressed_as_49_to_25_to_13():
    x = torch.arange(49.0).view(1, 49, 1, 1, 1)
    once = compress_time(x)
    assert once.shape[1] == 25 and once.flatten()[:3].tolist() == [0, 1.5, 3.5]
    assert compress_time(once).shape[1] == 13
    assert compress_time(x[:, :8]).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert compress_time(x[:, :1]).flatten().tolist() == [0]


LATENTS, TEXT, TIME = fill("x", (1, 4, 3, 4, 6)), fill("text", (1, 5, 24)), torch.tensor([500])
PIXELS = fill("pixels", (1, 3, 9, 32, 48))


@torch.no_grad()
def answer(base: Transformer, controls=(), step: int = 0, steps: int = 4) -> torch.Tensor:
    with (
        controlled(base, controls, steps),
        at_step(step),
        answering(("prompt",), LATENTS, TEXT, TIME),
    ):
        return base(LATENTS, TEXT, TIME)


def test_zero_projectors_leave_the_transformer_bit_equal_and_others_do_not():
    base, (ours, _) = golden_model().transformer, both(32)
    video, plain = ours.encode(PIXELS).detach(), answer(base)
    assert not torch.equal(answer(base, [Control(ours, video, 0.8)]), plain)
    for projector in ours.out_projectors:
        torch.nn.init.zeros_(projector.weight)
        torch.nn.init.zeros_(projector.bias)
    assert torch.equal(answer(base, [Control(ours, video, 0.8)]), plain)


def test_a_control_adds_in_its_share_of_the_steps_and_the_last_one_belongs_to_it():
    base, (ours, _) = golden_model().transformer, both(32)
    control, plain = Control(ours, ours.encode(PIXELS).detach(), 1.0, 0.25, 0.5), answer(base)
    acts = [not torch.equal(answer(base, [control], step), plain) for step in range(4)]
    assert acts == [False, True, True, False]
    assert torch.equal(answer(base, [Control(ours, control.video, 0.0)]), plain)


def test_two_add_up():
    base, (ours, _) = golden_model().transformer, both(32)
    video = ours.encode(PIXELS).detach()
    twice = answer(base, [Control(ours, video, 0.3), Control(ours, video, 0.5)])
    torch.testing.assert_close(answer(base, [Control(ours, video, 0.8)]), twice, atol=1e-5, rtol=0)


def test_blocks_beyond_those_of_the_control_net_run_as_they_are():
    base, (ours, _) = golden_model(num_layers=4).transformer, both(32)
    video = ours.encode(PIXELS).detach()
    ran = []
    for number, block in enumerate(base.transformer_blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    assert not torch.equal(answer(base, [Control(ours, video)]), answer(base)) and ran == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("rotary", [False, True])
def test_a_whole_run_equals_one_by_hand(rotary, tmp_path):
    """Four steps of stock DDIM with diffusers' transformer, whose blocks are followed by what the network adds."""
    model = golden_model(use_rotary_positional_embeddings=rotary)
    ours, theirs = both(32)
    write_controlnet(tmp_path, ours)
    video = Video(golden_frames(9), 8.0)
    entries = [f"{tmp_path}:0.8@0.0-0.5", f"{tmp_path}:0.25"]
    found = latents_of(model, shape=(1, 4, 3, 4, 6), control=video, control_net=entries)
    pixels = video.to_tensor().transpose(1, 2).expand(2, -1, -1, -1, -1)
    states: list[torch.Tensor] = []

    def adding(number):
        def add(block, given, out):
            return (out[0] + states[number], out[1]) if number < len(states) else None

        return add

    def before(step, inputs, text, t, rotary_emb):
        strength = (0.8 if step / 4 <= 0.5 else 0) + 0.25
        states[:] = [strength * each for each in theirs(inputs[:, :, :4], text, t, pixels, rotary_emb)]

    expected = by_hand(model, fill("none", (1, 0, 3, 4, 6)), adding, before)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - latents_of(model, shape=(1, 4, 3, 4, 6))).abs().max() > 1e-3


@torch.no_grad()
def test_in_a_window_of_a_long_video_its_own_frames_are_read():
    base, (ours, _) = golden_model().transformer, both(32)
    video, window = ours.encode(PIXELS).detach(), (0, 2)
    cut = LATENTS[:, :, list(window)]

    def seen(control: torch.Tensor, about: tuple[int, ...]) -> torch.Tensor:
        with (
            controlled(base, [Control(ours, control)], 4),
            in_window(about),
            answering(("prompt",), cut, TEXT, TIME),
        ):
            return base(cut, TEXT, TIME)

    expected = seen(video[:, :, list(window)], ())
    assert torch.equal(seen(video, window), expected) and not torch.equal(seen(video, (0, 1)), expected)
