"""LPIPS: how different two pictures look, as the distance of a classifier's features (Zhang et al. 2018, v0.1).

VGG16's convolutions with torchvision's parameter names, so that its public weights and the public linear heads
load as they are; torchvision itself is not needed. Without them, a small network of the same build that was
trained on the tiny world stands in (``cogvideox train world-lpips``): its numbers rank pictures, but they are
not comparable with published LPIPS.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.errors import CheckpointError, SizeError
from cogvideox.perception.weight_files import fill, read_tensors

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of version 0.1, for pixels in [-1, 1]
STAND_IN = Path(__file__).resolve().parents[1] / "shipped" / "lpips" / "stand-in.safetensors"


class LPIPSConfig(Config):
    """The trunk: stages of 3x3 convolutions with ReLU, the size halved between them. Defaults: VGG16."""

    widths: tuple[int, ...] = Field((64, 128, 256, 512, 512), description="channels of each stage")
    convolutions: tuple[int, ...] = Field((2, 2, 3, 3, 3), description="convolutions of each stage")


class LPIPS(nn.Module):
    """Distance of two pictures, 0 for equal ones. State dict: ``features.N`` (torchvision) and ``lin0`` ...

    ``lin0.model.1.weight`` and so on are the names of the public heads: one weight >= 0 per channel and stage.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: LPIPSConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LPIPSConfig()
        layers: list[nn.Module] = []
        self.taps, before = [], 3
        for stage, (width, count) in enumerate(zip(config.widths, config.convolutions, strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2, 2))
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.taps.append(len(layers) - 1)
            self.add_module(f"lin{stage}", LPIPSHead(width))
        self.features = nn.Sequential(*layers)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair of pictures in [-1, 1]. Raises SizeError for pictures it cannot halve."""
        heads = [getattr(self, f"lin{i}").weight for i in range(len(self.taps))]
        return distance(self.normalized_features(x), self.normalized_features(y), heads)

    def normalized_features(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c hs ws"]]:
        """The features of every stage, scaled to length one over channels at each position."""
        least = 2 ** (len(self.taps) - 1)
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < least:
            raise SizeError(
                f"pictures {tuple(x.shape)}: expected [batch, 3, height, width], each side at least {least}"
            )
        x = (x - self.shift) / self.scale
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                features.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return features


class LPIPSHead(nn.Module):
    """One weight per channel, under the public name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))

    @property
    def weight(self) -> Float[Tensor, " c"]:
        """The weight of each channel, at least 0."""
        convolution = self.model[1]
        assert isinstance(convolution, nn.Conv2d)  # as built above
        return convolution.weight.flatten()


def distance(
    xs: Sequence[Tensor], ys: Sequence[Tensor], heads: Sequence[Float[Tensor, " c"]]
) -> Float[Tensor, " b"]:
    """Weighted squared differences of features, averaged over positions, summed over stages."""
    parts = (
        torch.einsum("bchw,c->bhw", (x - y).square(), head).mean((1, 2))
        for x, y, head in zip(xs, ys, heads, strict=True)
    )
    return torch.stack([*parts]).sum(0)


def load_lpips(trunk: str | Path | None = None, heads: str | Path | None = None) -> LPIPS:
    """LPIPS without gradients of its own: the shipped stand-in, or VGG16 from files of the public weights.

    ``trunk``: torchvision's VGG16 (a classifier in the file is left out); ``heads``: the public linear heads for
    VGG16; ``.safetensors`` or ``.pth`` (read without unpickling code). Both or none. Raises CheckpointError.
    """
    if (trunk is None) != (heads is None):
        raise CheckpointError(f"trunk {trunk}, heads {heads}: LPIPS needs both files; pass both, or neither")
    if trunk is None or heads is None:
        return _stand_in()
    network = LPIPS()
    weights = {name: value for name, value in read_tensors(trunk).items() if name.startswith("features.")}
    weights |= {name: value for name, value in read_tensors(heads).items() if name.startswith("lin")}
    fill(network, weights, f"{trunk}, {heads}", "this LPIPS")
    return network.requires_grad_(False).eval()


def _stand_in() -> LPIPS:
    try:
        with safe_open(STAND_IN, framework="pt") as file:
            config = LPIPSConfig.parse(json.loads(file.metadata()["config"]))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{STAND_IN}: the shipped stand-in cannot be read: {error}") from None
    network = LPIPS(config)
    fill(network, read_tensors(STAND_IN), str(STAND_IN), "this LPIPS")
    return network.requires_grad_(False).eval()
