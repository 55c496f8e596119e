"""The tiny autoencoder: at once = frame by frame, its frames, its names, what its file may be."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from cogvideox.checkpoints import load_tiny_vae
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.vae.tiny import TinyVAE
from support.golden import fill, fill_model
from support.models import golden_model


@pytest.fixture(scope="module")
def tiny() -> TinyVAE:
    return fill_model(TinyVAE())


def latents(frames: int) -> torch.Tensor:
    return fill("z", (1, 16, frames, 2, 3))


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (2, 8), (5, 17), (6, 24), (13, 49), (22, 88)])
def test_frame_by_frame_is_at_once(tiny, count, frames):
    with torch.no_grad():
        at_once, lean = tiny.decode(latents(count)), tiny.decode(latents(count), lean=True)
    assert at_once.shape == (1, 3, frames, 16, 24)
    torch.testing.assert_close(lean, at_once, atol=1e-5, rtol=0)


def test_the_future_does_not_change_the_past(tiny):
    z = latents(5)
    other = torch.cat([z[:, :, :3], -z[:, :, 3:]], dim=2)
    with torch.no_grad():
        one, two = tiny.decode(z), tiny.decode(other)
    assert torch.equal(one[:, :, :9], two[:, :, :9]) and not torch.equal(one[:, :, 9:], two[:, :, 9:])


def test_a_frame_is_what_its_layers_say_written_out(tiny):
    """The first frame of one latent, layer by layer as the sheet of the format has it."""
    state = tiny.state_dict()

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[2] // 2)

    def memory(x, name):
        y = torch.cat([x, torch.zeros_like(x)], dim=1)
        y = conv(F.relu(conv(F.relu(conv(y, f"{name}.conv.0")), f"{name}.conv.2")), f"{name}.conv.4")
        return F.relu(y + x)

    x = 3 * torch.tanh(latents(1)[:, :, 0] / 3)
    x = F.relu(conv(x, "decoder.1"))
    for number, last in ((3, 8), (9, 14), (15, 20)):
        for block in range(3):
            x = memory(x, f"decoder.{number + block}")
        x = F.interpolate(x, scale_factor=2)
        x = conv(x, f"decoder.{number + 4}.conv")
        stride = (
            state[f"decoder.{number + 4}.conv.weight"].shape[0] // state[f"decoder.{last}.weight"].shape[1]
        )
        x = conv(x.chunk(stride, dim=1)[0], f"decoder.{last}")
    first = conv(F.relu(x), "decoder.22").clamp(0, 1) * 2 - 1
    with torch.no_grad():
        from cogvideox.vae.tiny import _at_once

        torch.testing.assert_close(_at_once(tiny.decoder, latents(1)).clamp(0, 1)[:, :, 0] * 2 - 1, first)


def test_it_encodes_four_frames_to_one_latent(tiny):
    with torch.no_grad():
        assert tiny.encode(fill("pixels", (1, 3, 9, 16, 24))).shape == (1, 16, 3, 2, 3)


def test_a_file_is_read_strictly_and_surplus_rows_are_dropped(tiny, tmp_path):
    state = tiny.state_dict()
    file = tmp_path / "taecvx.safetensors"
    wide = state["decoder.7.conv.weight"]
    save_file({**state, "decoder.7.conv.weight": torch.cat([-wide, wide])}, file)
    found = load_tiny_vae(file)
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    save_file({name: value for name, value in state.items() if name != "decoder.22.bias"}, file)
    with pytest.raises(CheckpointError, match=r"decoder\.22\.bias"):
        load_tiny_vae(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="holds no tiny autoencoder"):
        load_tiny_vae(file)
    with pytest.raises(CheckpointError, match="no such file"):
        load_tiny_vae(tmp_path / "none.safetensors")


def test_a_model_without_one_says_so():
    with pytest.raises(ConfigError, match="has no tiny autoencoder"):
        golden_model().decode_latents(torch.zeros(1, 4, 1, 4, 6), "tiny")
