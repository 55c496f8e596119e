"""A critic of video: which patches of time and space look generated? The discriminator of the GAN loss (section 2.1).

The paper says *3D discriminator* and no more. This one judges overlapping patches (PatchGAN in three dimensions), works
for any number of frames, one included, and normalises over channels only, so that a frame's verdict depends on nothing
but the frames in its patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from cogvideox.config import Config


class CriticConfig(Config):
    """The size of the discriminator."""

    width: int = Field(64, gt=0, description="channels after the first convolution; doubled at every stage")
    most: int = Field(512, gt=0, description="no stage is wider than this")
    stages: int = Field(3, ge=1, description="times that height and width are halved")
    time_stages: int = Field(2, ge=0, description="of these, how many halve the frames too (rounded up)")


class PatchCritic(nn.Module):
    """Video to one number per patch; large means it looks real. [b, 3, f, h, w] -> [b, 1, f', h', w'].

    Frames before the first and behind the last are repetitions of these, as in the autoencoder's own past.
    """

    def __init__(self, config: CriticConfig, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.first = nn.Conv3d(channels, width, 3, padding=(0, 1, 1))
        self.stages = nn.ModuleList()
        for stage in range(config.stages):
            wider = min(2 * width, config.most)
            self.stages.append(CriticStage(width, wider, halve_time=stage < config.time_stages))
            width = wider
        self.verdict = nn.Conv3d(width, 1, 3, padding=(0, 1, 1))

    def forward(self, pixels: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 1 f2 h2 w2"]:
        """One number per patch; large means it looks real."""
        x = F.leaky_relu(self.first(longer(pixels)), 0.1)
        for stage in self.stages:
            x = stage(x)
        return self.verdict(longer(x))


class CriticStage(nn.Module):
    """Two convolutions and a shortcut; height and width are halved, the frames too with ``halve_time``."""

    def __init__(self, width: int, wider: int, halve_time: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=(0, 1, 1))
        self.conv2 = nn.Conv3d(width, wider, 3, padding=(0, 1, 1))
        self.shortcut = nn.Conv3d(width, wider, 1, bias=False)
        self.stride = (2 if halve_time else 1, 2, 2)

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f2 h2 w2"]:
        """The stage's features at half the height and width."""
        y = F.leaky_relu(self.conv1(longer(self._normalised(x))), 0.1)
        y = F.leaky_relu(self.conv2(longer(y)), 0.1)
        both = y + self.shortcut(x)
        if both.shape[2] % self.stride[0]:
            both = torch.cat([both, both[:, :, -1:]], dim=2)
        return F.avg_pool3d(both, self.stride) * 2**-0.5

    def _normalised(self, x: Tensor) -> Tensor:
        """Normalised over the channels of each position, so that patches stay independent."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def longer(x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
    """One copy of the first frame before it, one of the last behind it."""
    return torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
