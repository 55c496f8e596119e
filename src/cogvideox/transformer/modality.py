"""What text and video have of their own: nothing, their modulation (CogVideoX), or every weight (MMDiT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.recompute import recomputable
from cogvideox.transformer.layout import VIDEO, Layout


class Experts(Config):
    """Which parts text and video do not share (Fig. 8a, 8d, 10c).

    Without expert adaLN (no, no); CogVideoX (norm); MMDiT (norm and weights).
    """

    norm: bool = Field(True, description="adaLN modulation of its own for each modality")
    weights: bool = Field(
        False, description="attention and feed-forward weights of their own for each modality"
    )


class PerModality(nn.Module):
    """Two modules of one kind: video tokens go through one, text tokens through the other."""

    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        self.video, self.text = make(), make()

    def forward(self, x: Float[Tensor, "b n ..."], layout: Layout) -> Float[Tensor, "b n ..."]:
        """Every token through its modality's module, in the order of the sequence."""
        segments = zip(layout.segments, x.split(layout.lengths, dim=1), strict=True)
        return torch.cat(
            [(self.video if s.modality == VIDEO else self.text)(tokens) for s, tokens in segments], dim=1
        )


def shared_or_not(separate: bool, make: Callable[[], nn.Module]) -> nn.Module:
    """One module for both modalities, or with ``separate`` one for each."""
    return PerModality(make) if separate else make()


def through(module: nn.Module, x: Float[Tensor, "b n ..."], layout: Layout) -> Float[Tensor, "b n ..."]:
    """``x`` through a module that both modalities share, or through each modality's own."""
    return module(x, layout) if isinstance(module, PerModality) else module(x)


def normalise(norm: nn.Module, x: Float[Tensor, "b n ..."], layout: Layout) -> Float[Tensor, "b n ..."]:
    """``through`` a LayerNorm; the result is cheap enough to be computed again in the backward pass."""
    return _call(norm, x, layout) if isinstance(norm, PerModality) else _call(norm, x)


@recomputable
def _call(module: nn.Module, *args: Any) -> Tensor:
    return module(*args)
