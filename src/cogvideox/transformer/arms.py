"""The architectures that the paper compares with (Fig. 8, 10), as configs made from a config."""

from __future__ import annotations

import torch

from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.modality import Experts
from cogvideox.transformer.transformer import Transformer

NO_EXPERTS = Experts(norm=False, weights=False)
EXPERT_NORM = Experts(norm=True, weights=False)
MMDIT = Experts(norm=True, weights=True)


def without_experts(config: TransformerConfig) -> TransformerConfig:
    """Text and video share everything, the modulation too."""
    return config.with_arm(experts=NO_EXPERTS)


def mmdit_of_same_depth(config: TransformerConfig) -> TransformerConfig:
    """MMDiT2 of Fig. 8: as many layers, about twice the parameters."""
    return config.with_arm(experts=MMDIT)


def mmdit_of_same_size(config: TransformerConfig) -> TransformerConfig:
    """MMDiT1 of Fig. 8: the number of layers whose parameter count comes closest to that of ``config``."""
    budget = parameter_count(config)
    one, two = (parameter_count(config.with_arm(experts=MMDIT, num_layers=layers)) for layers in (1, 2))
    layers = max(1, round((budget - one) / (two - one)) + 1)
    return config.with_arm(experts=MMDIT, num_layers=layers)


def split(config: TransformerConfig) -> TransformerConfig:
    """2D + 1D attention instead of 3D full attention (Fig. 8b, 10b)."""
    return config.with_arm(attention="split")


def sinusoidal(config: TransformerConfig) -> TransformerConfig:
    """Sin-cos positions added to x instead of rotary ones (Fig. 10a)."""
    return config.with_positions("sinusoidal")


def parameter_count(config: TransformerConfig) -> int:
    """Weights of a model, counted without allocating any."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())
