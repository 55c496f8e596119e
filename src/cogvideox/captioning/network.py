"""A small video captioner: pictures to words, trained from scratch. What the paper's CogVLM2-Caption is at 12 B.

Each picture becomes one vector (convolutions, then a projection that keeps places apart); a few layers look across
time; a T5 decoder reads the result and writes. It sees ``frames``
pictures spread evenly over the clip, whatever its length.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.text import T5Config, T5Decoder


class CaptionerConfig(Config):
    """Shape of the network, in ``config.json``."""

    frames: int = Field(5, gt=1, le=1024, description="pictures of a clip that are looked at")
    size: int = Field(40, gt=15, le=2048, description="height and width they are made to have, pixels")
    channels: tuple[Annotated[int, Field(ge=4, le=8192)], ...] = Field(
        (24, 48, 64),
        min_length=1,
        max_length=8,
        description="of the convolutions; each halves height and width",
    )
    mixers: int = Field(2, ge=0, le=256, description="layers that look across time")
    longest: int = Field(48, gt=0, le=16_384, description="most tokens of a caption")
    text: T5Config = Field(description="the decoder")


class CaptionerNetwork(nn.Module):
    """``forward(seen, tokens) -> scores of each next token``."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width, wide = config.text.d_model, [3, *config.channels]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip(wide[:-1], wide[1:], strict=True)):
            kernel = 4 if index == 0 else 3
            layers += [
                nn.Conv2d(before, after, kernel, stride=2, padding=1),
                nn.GroupNorm(4, after),
                nn.SiLU(),
            ]
        side = config.size // 2 ** len(config.channels)
        self.look = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide[-1] * side**2, width))
        self.time = nn.Parameter(torch.zeros(config.frames, width))
        mixer = [
            nn.TransformerEncoderLayer(
                width, config.text.num_heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.mixers)
        ]
        self.mix = nn.Sequential(*mixer, nn.LayerNorm(width))
        self.shared = nn.Embedding(config.text.vocab_size, width)
        self.decoder = T5Decoder(config.text)
        self.lm_head = nn.Linear(width, config.text.vocab_size, bias=False)

    def encode(self, pictures: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t d"]:
        """One vector per picture that knows of the others."""
        b, t = pictures.shape[:2]
        x = pictures.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.mix(self.look(x).unflatten(0, (b, t)) + self.time)

    def forward(self, seen: Float[Tensor, "b t d"], tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Scores of each next token, for ``tokens`` that begins with PAD, about what ``encode`` gave."""
        return self.lm_head(self.decoder(self.shared(tokens), seen))


def initialise(network: CaptionerNetwork, generator: torch.Generator) -> CaptionerNetwork:
    """Random weights to train from, a function of the generator alone; returns the network."""
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0)
        elif name in ("shared.weight", "time"):
            nn.init.normal_(weight, std=0.5, generator=generator)
        else:
            fan = weight[0].numel()
            scale = fan**-0.25 if ".q." in name else 1.0  # T5 does not scale its scores
            nn.init.normal_(weight, std=scale * fan**-0.5, generator=generator)
    return network
