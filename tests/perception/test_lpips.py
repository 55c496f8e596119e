"""LPIPS: the published formula, public names, files that are refused."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from cogvideox.errors import CheckpointError, SizeError
from cogvideox.perception.lpips import LPIPS, SCALE, SHIFT, LPIPSConfig, load_lpips
from support.golden import fill

SMALL = LPIPSConfig(widths=(4, 6), convolutions=(1, 2))


def test_distance_is_the_published_formula():
    """Unit-length features, squared differences, 1x1 heads, spatial mean, sum over the stages."""
    torch.manual_seed(0)
    net = LPIPS(SMALL)
    x, y = (fill(name, (2, 3, 8, 8)) for name in "xy")

    def stages(p):
        p = (p - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
        convs = [m for m in net.features if isinstance(m, torch.nn.Conv2d)]
        one = F.relu(convs[0](p))
        two = F.relu(convs[2](F.relu(convs[1](F.max_pool2d(one, 2)))))
        return [F.normalize(f, dim=1) for f in (one, two)]

    heads = [net.lin0.model[1], net.lin1.model[1]]
    expected = sum(
        h((a - b) ** 2).mean((1, 2, 3)) for h, a, b in zip(heads, stages(x), stages(y), strict=True)
    )
    torch.testing.assert_close(net(x, y), expected)
    assert torch.equal(net(x, x), torch.zeros(2))


def test_names_and_sizes_are_those_of_the_public_weights():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LPIPS().state_dict().items()}
    assert shapes["features.0.weight"] == (64, 3, 3, 3) and shapes["features.28.weight"] == (512, 512, 3, 3)
    assert shapes["lin4.model.1.weight"] == (1, 512, 1, 1) and len(shapes) == 2 * 13 + 5


def test_public_files_are_read_and_others_refused(tmp_path):
    with torch.device("meta"):
        shapes = LPIPS().state_dict()
    whole = {name: torch.zeros(value.shape) for name, value in shapes.items()}
    trunk = {n: v for n, v in whole.items() if n.startswith("features")} | {
        "classifier.0.bias": torch.ones(2)
    }
    save_file(trunk, tmp_path / "vgg16.safetensors")
    torch.save({n: v for n, v in whole.items() if n.startswith("lin")}, tmp_path / "vgg.pth")
    network = load_lpips(tmp_path / "vgg16.safetensors", tmp_path / "vgg.pth")
    assert not any(p.requires_grad for p in network.parameters())
    for wrong in (
        (tmp_path / "vgg.pth", tmp_path / "vgg.pth"),
        (tmp_path / "none.pth", tmp_path / "vgg.pth"),
    ):
        with pytest.raises(CheckpointError):
            load_lpips(*wrong)
    with pytest.raises(CheckpointError, match="both"):
        load_lpips(tmp_path / "vgg16.safetensors")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "vgg.pth").read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        load_lpips(tmp_path / "vgg16.safetensors", tmp_path / "cut.pth")


def test_pictures_that_cannot_be_seen_are_refused():
    with pytest.raises(SizeError, match="at least 2"):
        LPIPS(SMALL)(torch.zeros(1, 3, 1, 8), torch.zeros(1, 3, 1, 8))
