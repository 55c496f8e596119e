"""RAFT: the numbers of its peer, public names, films measured by it, files that are refused.

Golden numbers: made by torchvision 0.29.2 (``raft_large``, ``raft_small``) in float32 on a CPU from the same values.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cogvideox.errors import CheckpointError, ConfigError, SizeError
from cogvideox.perception.flow import Dis, Raft
from cogvideox.perception.motion import motion_of
from cogvideox.perception.raft import LARGE, RAFT, SMALL, RAFTFlow, load_raft
from support.films import take
from support.golden import fill, param, summary


def golden_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of any network with these names, ours or the peer's; variances are positive."""
    shapes = network.state_dict()
    values = {name: param(name, value.shape) for name, value in shapes.items()}
    for name in values:
        if name.endswith("running_var"):
            values[name] += 1
    return values


def pictures(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth texture and the same one moved by (-5, 2), with some noise."""
    smooth = 6 * torch.nn.functional.avg_pool2d(fill("input.picture", (1, 3, height, width)), 9, 1, 4)
    return smooth, torch.roll(smooth, (2, -5), (2, 3)) + 0.05 * fill("input.noise", (1, 3, height, width))


def made(config) -> RAFT:
    network = RAFT(config)
    network.load_state_dict(golden_weights(network))
    return network.requires_grad_(False).eval()


GOLDEN = [
    (LARGE, (128, 128), 4, "3.656197 6.246830 .319738 .273022 3.495556 1.123340 8.849665 -2.068454"),
    (LARGE, (136, 184), 1, ".992210 1.459650 .081291 .079876 2.375111 .361292 1.630050 -.560255"),
    (SMALL, (128, 128), 1, "1.709807 1.842283 -.157307 -.206787 2.218175 2.103381 3.008128 -.198273"),
    (SMALL, (136, 184), 4, "8.959736 9.548490 5.428745 4.868746 10.374372 9.786659 4.571471 .611206"),
]


@pytest.mark.parametrize(("config", "size", "updates", "row"), GOLDEN)
def test_golden_flow(config, size, updates, row):
    flow = made(config)(*pictures(*size), updates)
    assert flow.shape == (1, 2, *size)
    assert summary(flow) == pytest.approx([float(value) for value in row.split()], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("size", [(120, 128), (128, 132)])
def test_pictures_the_network_cannot_halve_are_refused(size):
    with pytest.raises(SizeError, match="multiple of 8"):
        made(SMALL)(*pictures(*size))


@pytest.mark.parametrize("config", [LARGE, SMALL], ids=lambda config: config.name)
def test_torchvision_gives_the_same_flow(config):
    flows = pytest.importorskip("torchvision", exc_type=ImportError).models.optical_flow
    peer = {"large": flows.raft_large, "small": flows.raft_small}[config.name]().eval()
    ours = made(config)
    assert peer.state_dict().keys() == ours.state_dict().keys()
    peer.load_state_dict(golden_weights(peer))
    for size in ((128, 128), (136, 184), (256, 192)):
        with torch.no_grad():
            expected = peer(*pictures(*size), num_flow_updates=6)[-1]
        torch.testing.assert_close(ours(*pictures(*size), 6), expected, atol=1e-4, rtol=1e-4)


class Echo(torch.nn.Module):
    """Answers with what it was shown: red and green of the first picture."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, before, after, updates):
        assert before.shape == after.shape and min(before.shape[2:]) >= 128
        assert not any(side % 8 for side in before.shape[2:])
        return before[:, :2]


def test_a_flow_lies_over_its_picture_whatever_the_size():
    flow = RAFTFlow(Echo(), "echo")
    for height, width in ((128, 136), (131, 250)):
        frames = take(1, 2, height, width)
        np.testing.assert_allclose(flow(*frames), frames[0, :, :, :2] / 127.5 - 1, atol=1e-5)
        grey = frames[..., 1]
        np.testing.assert_allclose(flow(*grey), np.stack([grey[0], grey[0]], 2) / 127.5 - 1, atol=1e-5)
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (50, 90, 3))
    small = flow(ramp, ramp)  # enlarged three times, and its movement is in pixels of the small picture
    assert small.shape == (50, 90, 2)
    np.testing.assert_allclose(small[:, 1:-1, 0], (ramp[:, 1:-1, 0] / 127.5 - 1) / 3, atol=1e-5)


def test_weights_are_read_from_both_kinds_of_files(tmp_path):
    weights = golden_weights(RAFT(SMALL))
    torch.save(weights, tmp_path / "small.pth")
    save_file(weights, tmp_path / "small.safetensors")
    old = {n: v for n, v in golden_weights(RAFT(LARGE)).items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "large.pth")
    frames = take(2, 3, 64, 96)
    found = [
        Raft(weights=str(tmp_path / name), updates=1).build() for name in ("small.pth", "small.safetensors")
    ]
    first, second = (motion_of(frames, np.arange(3) / 8, flow) for flow in found)
    assert first == second and first.mean > 0
    assert not any(p.requires_grad for p in load_raft(tmp_path / "large.pth").parameters())
    assert load_raft(tmp_path / "large.pth").config.name == "large"
    names = {flow.name.partition(":")[0] for flow in found}
    assert names == {"raft-small"} and found[0].name != found[1].name  # other bytes, another digest


def test_files_that_hold_no_raft_are_refused(tmp_path):
    weights = golden_weights(RAFT(SMALL))
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_file(weights | {"module.extra": torch.zeros(2)}, tmp_path / "more.safetensors")
    save_file(weights | {"feature_encoder.conv.bias": torch.zeros(7)}, tmp_path / "shape.safetensors")
    torch.save({"state": weights}, tmp_path / "nested.pth")
    torch.save(RAFT(SMALL), tmp_path / "pickled.pth")  # a whole module: reading it would run its code
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nested.pth").read_bytes()[:5000])
    for name, why in {
        "none.pth": "no such file",
        "other.safetensors": r"tensors missing \(context_encoder.*1 unknown \(a\)",
        "more.safetensors": r"1 unknown \(module\.extra\)",
        "shape.safetensors": r"feature_encoder\.conv\.bias is \[7\], it takes \[128\]",
        "nested.pth": "not a table of tensors",
        "pickled.pth": "not plain tensors",
        "cut.pth": "cannot be read",
    }.items():
        with pytest.raises(CheckpointError, match=f"{name}: .*{why}"):
            load_raft(tmp_path / name)


def test_settings_that_cannot_be_are_refused():
    assert Dis().digest() == ""
    with pytest.raises(ConfigError, match="raft needs weights"):
        Raft()
    with pytest.raises(ConfigError, match="device"):
        Raft(weights="a.pth", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda: this machine shows no GPU"):
            Raft(weights="a.pth", device="cuda").build()
