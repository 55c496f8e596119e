"""A small video network that was trained on the tiny world: 64 numbers that say what a clip shows and what is
wrong with it.

It was taught the facts of a scene and, so that flaws move the features too, how much a clip was blurred, made
noisy, shuffled and frozen. Features of networks that know only content hardly see frozen or shuffled clips.
``cogvideox train world-features`` trains such a network; other weights are another metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from cogvideox.perception.features import FeatureCard, NetworkFeatures

DIM, FRAMES, SIZE = 64, 17, 64
WEIGHTS = "world_features.safetensors"


class FeatureStage(nn.Module):
    """A convolution in space, then one in time, each with GroupNorm and SiLU ("(2+1)D")."""

    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(wide_in, wide, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.norm_space = nn.GroupNorm(8, wide)
        self.time = nn.Conv3d(wide, wide, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
        self.norm_time = nn.GroupNorm(8, wide)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        """Halves time and space when stride is 2."""
        x = silu(self.norm_space(self.space(x)))
        return silu(self.norm_time(self.time(x)))


class WorldNetwork(nn.Module):
    """Pixels ``[b, 3, t, h, w]`` in [-1, 1] -> features ``[b, 64]`` -> one answer per head."""

    def __init__(self, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (1, 5, 5), (1, 2, 2), (0, 2, 2))
        self.stages = nn.Sequential(FeatureStage(16, 32, 2), FeatureStage(32, 64, 2), FeatureStage(64, 64, 1))
        self.project = nn.Linear(128, DIM)
        self.heads = nn.ModuleDict({name: nn.Linear(DIM, size) for name, size in heads.items()})

    def features(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 64"]:
        """Mean and largest activation of each channel, projected."""
        x = self.stages(silu(self.stem(pixels)))  # [b, 64, t/4, h/8, w/8]
        return self.project(torch.cat([x.mean((2, 3, 4)), x.amax((2, 3, 4))], 1))

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> dict[str, Tensor]:
        """Logits (facts) and amounts (flaws), one row per clip."""
        x = silu(self.features(pixels))
        return {name: head(x) for name, head in self.heads.items()}


@cache
def world_features() -> NetworkFeatures:
    """The network that ships, for clips of the tiny world (17 frames, 64x64)."""
    data = (resources.files("cogvideox") / "shipped" / "features" / WEIGHTS).read_bytes()
    network = WorldNetwork({})
    weights = safetensors.torch.load(data)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    card = FeatureCard("world-64", "1", DIM, FRAMES, SIZE, "cover", hashlib.sha256(data).hexdigest())
    return NetworkFeatures(card, network.eval().features, batch=16)


def fixed_features(seed: int = 0) -> NetworkFeatures:
    """The same network with weights drawn from a seed, never trained: texture and motion statistics of any clip."""
    from cogvideox.noise import generator

    network = WorldNetwork({}).eval()
    source = generator(seed, "fixed features")
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=source)
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)  # as built they come from the global generator, which no seed decides
    card = FeatureCard("fixed-64", "2", DIM, FRAMES, SIZE, "cover", f"seed {seed}")
    return NetworkFeatures(card, network.features, batch=16)
